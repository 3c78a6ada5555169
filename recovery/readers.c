#include "recovery/readers.h"

int readers_get(struct readers *readers, uint64_t root, struct page_reader **ret, struct err *err)
{
	size_t oldest = 0;

	readers->clock++;
	for (size_t i = 0; i < READERS_MOST; i++) {
		if (readers->open[i].reader && readers->open[i].root == root) {
			readers->open[i].used = readers->clock;
			*ret = readers->open[i].reader;
			return 0;
		}
		if (readers->open[i].used < readers->open[oldest].used)
			oldest = i;
	}
	page_reader_close(readers->open[oldest].reader);
	readers->open[oldest].reader = NULL;
	if (page_reader_open(&readers->open[oldest].reader, readers->store, root, err) < 0)
		return -1;
	readers->open[oldest].root = root;
	readers->open[oldest].used = readers->clock;
	*ret = readers->open[oldest].reader;
	return 0;
}

void readers_close(struct readers *readers)
{
	for (size_t i = 0; i < READERS_MOST; i++) {
		page_reader_close(readers->open[i].reader);
		readers->open[i].reader = NULL;
	}
}
