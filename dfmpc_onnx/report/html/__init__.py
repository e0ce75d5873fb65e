"""The report as one HTML file: data, charts and sections, put into templates."""
