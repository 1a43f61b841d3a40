"""Fetch images from a PACS into the site's own folder, where the scan finds them."""
