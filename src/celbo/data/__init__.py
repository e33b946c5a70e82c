"""Files and AnnData in; validated counts, schema and minibatches out."""
