"""One file a system; `base` binds data, network, engine and posterior for the user."""
