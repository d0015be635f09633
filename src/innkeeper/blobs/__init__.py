"""Adapters of `ports.blobs` and `ports.folders`: where contents of files lie, and folders of a workspace's files."""
