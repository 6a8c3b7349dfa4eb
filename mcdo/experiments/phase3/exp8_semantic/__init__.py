"""Exp8: does the variance over passes lie where meaning lies?"""
