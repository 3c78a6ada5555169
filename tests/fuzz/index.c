/* Runs of the page index. */
#include "fuzz.h"

#include "store/bytes.h"
#include "store/indexrun.h"

static const struct store_secret secret = {.bytes = {10, 11, 12}};
#define KEY 3

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	struct index_entry entries[100];
	size_t n = i == 0 ? 1 : 100;

	if (i > 1 || run_len(n) > room)
		return 0;
	for (size_t j = 0; j < n; j++)
		entries[j] = (struct index_entry){(uint32_t)(j * 2654435761u), 2 + j * j * 77777};
	index_sort(entries, n);
	run_seal(buf, entries, n, KEY, &secret);
	return RUN_HEADER + n * RUN_ENTRY;
}

/* Whatever order the prints are in. */
static void search(const struct index_run *run)
{
	struct index_entry *merged = malloc((run->count + 1) * sizeof(*merged));
	const struct index_entry one = {run_entry(run, run->count / 2).print, 5};

	if (!merged)
		abort();
	for (uint32_t i = 0; i < run->count && i < 64; i++) {
		promise(run_find(run, run_entry(run, i).print) <= run->count);
		promise(run_entry(run, i).id < RUN_ID_END);
	}
	promise(run_find(run, 0) <= run->count);
	promise(run_find(run, UINT32_MAX) <= run->count);
	run_merge(merged, &one, 1, run);
	free(merged);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct index_run run;
	struct err err = {0};

	if (run_open(&run, data, size, KEY, &secret, &err) < 0)
		promise(err.kind == ERR_CORRUPT);
	if (run_peek(&run, data, size, KEY, &err) < 0)
		promise(err.kind == ERR_CORRUPT);
	else
		search(&run);
	return 0;
}
