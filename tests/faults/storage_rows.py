STORAGE_ROWS: list = []
