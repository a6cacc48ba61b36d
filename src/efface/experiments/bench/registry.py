BENCHES = {}


def run_bench():
    pass
