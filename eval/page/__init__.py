"""Reports: charts, sections, one offline page."""
