"""Omniglot as the papers on few-shot learning use it: data, episodes, training and scores."""
