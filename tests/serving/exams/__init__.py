"""Other people's clients against the endpoint as it is started by hand: `make exams`.

They stand in an environment of their own, for they want other versions of what stands in this one.
"""
