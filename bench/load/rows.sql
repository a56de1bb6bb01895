SELECT id, payload FROM bench_rows;
