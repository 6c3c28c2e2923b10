"""Families that came with Python code of their own, run as what they are: LLaMA with its tensors packed differently.

`mapping` recognises them by config.json alone, `tensors` unpacks their weights, `model` puts them into the LLaMA of
transformers, `copy` writes them once more for engines that only read folders, `tokenizer` opens their vocabularies, and
`alibi` has the one difference that is not a matter of packing. No code that a model brings along is ever run.
"""
