PROCESS_ROWS: list = []
