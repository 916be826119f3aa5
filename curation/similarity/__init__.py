"""What makes two questions the same, for the stages that must know: dedup, decontaminate and split.

A question is its text, its options, its pictures and its answer. The kernels (curation.kernels) say how alike texts and
pictures are; these modules say what that means.
"""
