/*
 * A big round of the pre-copy that nothing waits in front of, such as the first, or one that does not fit. What the
 * job writes while it is stored has to be stored again; what is copied aside instead, which takes a fraction of the
 * time, takes memory, and memory that was never touched is dear (copies.h). So it is stored at once, as long as that
 * keeps pace with the job.
 */
#include <stdbool.h>

#include "checkpointer/tracked.h"

/* How much is read before a look at what was written meanwhile; then twice as much, and so on. */
#define FIRST_LOOK (64ull << 20)
/* A job keeps ahead of us that will have written more than this part of what we store while we store it. */
#define VAIN_PART 8

struct big_copy {
	struct tracked *tracked;
	struct scan_cursor round;
	struct page_copies *copies;
	uint64_t *candidates;
	uint64_t whole, done; /* bytes that are to be read */
};

/* The next ranges, with up to `most` bytes that are to be read. */
static int next_part(struct big_copy *f, uint64_t most, struct scan_result *ret, struct err *err)
{
	struct scan_range r;
	uint64_t size = 0;

	while (size < most && scan_cursor_next(&f->round, most, &r)) {
		size += pages_range_size(&r);
		if (scan_result_add(ret, &r, err) < 0)
			return -1;
	}
	return 0;
}

static int capture(struct big_copy *f, const struct scan_result *part, enum capture_mode mode, struct err *err)
{
	const struct page_owner owner = tracked_pages(f->tracked);

	f->done += pages_capture_size(part);
	return pages_capture(&owner, part, f->copies, mode, f->candidates, err);
}

/* Whether the job would have written much of it again before all is stored, judging by the part that was
 * stored last. */
static int is_outrun(struct big_copy *f, const struct scan_result *part, bool *ret, struct err *err)
{
	uint64_t size = pages_capture_size(part), pages = 0;

	for (size_t i = 0; i < part->n; i++) {
		const struct scan_range *r = &part->ranges[i];

		if (pages_range_size(r) > 0 &&
		    tracker_peek(f->tracked->tracker, r->start, r->end, &pages, err) < 0)
			return -1;
	}
	/* By the end of the copy, so many times as much time will have gone by. */
	*ret = size > 0 && (double)(pages * STORE_PAGE_SIZE) / (double)size * (double)f->whole / (double)f->done >
				   1.0 / VAIN_PART;
	return 0;
}

static bool rest_fits(const struct big_copy *f)
{
	return f->whole - f->done <= page_copies_left(f->copies) / 4 * 3;
}

static int copy_by_parts(struct big_copy *f, struct err *err)
{
	enum capture_mode mode = CAPTURE_THROUGH;
	int result = 0;

	for (uint64_t most = FIRST_LOOK; result == 0 && f->round.i < f->round.ranges->n; most *= 2) {
		struct scan_result part = {0};
		bool outrun = false;

		result = next_part(f, mode == CAPTURE_THROUGH ? most : UINT64_MAX, &part, err);
		if (result == 0)
			result = capture(f, &part, mode, err);
		if (result == 0 && mode == CAPTURE_THROUGH && rest_fits(f))
			result = is_outrun(f, &part, &outrun, err);
		if (outrun)
			mode = tracked_copy_mode(f->copies, f->whole, TRACKED_FIRST);
		scan_result_free(&part);
	}
	return result;
}

int tracked_copy_big(struct tracked *t, const struct scan_result *round, struct page_copies *copies,
		     uint64_t *candidates, struct err *err)
{
	struct big_copy f = {.tracked = t,
			     .round = {.ranges = round},
			     .copies = copies,
			     .candidates = candidates,
			     .whole = pages_capture_size(round)};

	/* Waiting copies are older than what goes to the table now. */
	if (page_copies_put_gently(copies, err) < 0)
		return -1;
	return copy_by_parts(&f, err);
}
