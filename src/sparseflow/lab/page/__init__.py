"""Pages: exhibits, figures, tables and words, whatever they show."""
