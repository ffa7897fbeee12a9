"""What does a member or custodian answer?"""
