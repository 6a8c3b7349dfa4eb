"""Exp9: does an uncertainty help a tracker?"""
