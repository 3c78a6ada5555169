#include "store/base/pages.h"

#include <stdint.h>
#include <sys/mman.h>

void *pages_map(size_t len)
{
	char *all = mmap(NULL, len + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t before;

	if (all == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)all & (HUGE_BYTES - 1);
	if (before)
		munmap(all, before);
	if (before < HUGE_BYTES)
		munmap(all + before + len, HUGE_BYTES - before);
	madvise(all + before, len, MADV_HUGEPAGE);
	return all + before;
}

void pages_lend(void *pages, size_t len)
{
	madvise(pages, len, MADV_FREE);
}

void pages_unmap(void *pages, size_t len)
{
	if (pages)
		munmap(pages, len);
}
