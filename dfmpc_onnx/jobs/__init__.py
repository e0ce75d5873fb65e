"""Many models: jobs from files, folders and manifests, each in a process of its own, each ended by a row."""
