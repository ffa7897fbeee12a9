"""What does one person see who runs every site?"""
