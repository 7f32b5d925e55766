"""The models: tokenizer, encoder, classifier, and how a configuration becomes one."""
