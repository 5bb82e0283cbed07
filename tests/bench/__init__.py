"""The uploader beside what a user would pick instead: `make bench`, see MARKDOWN_DOCS/PERFORMANCE.md."""
