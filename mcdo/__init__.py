"""mcdo: can the uncertainty of a frozen vision-language encoder be trusted?"""
