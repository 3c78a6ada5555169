#include "store/replica/runs.h"

#include <stdlib.h>

#include "store/bytes.h"
#include "store/node.h"

#define RUN_MOST 30u /* three varints */

enum { RUN_ZERO = 0, RUN_IDS = 1 };

int runs_add(struct runs_writer *w, const struct page_ids *run, struct err *err)
{
	uint8_t *p;

	if (w->room - w->len < RUN_MOST) {
		size_t room = w->room ? 2 * w->room : 4096;
		uint8_t *more = realloc(w->bytes, room);

		if (!more)
			return err_sys(err, "a page table");
		w->bytes = more;
		w->room = room;
	}
	p = w->bytes + w->len;
	p = put_varint(p, run->first - w->end);
	p = put_varint(p, (run->n - 1) * 2 + (run->id == ID_ZERO ? RUN_ZERO : RUN_IDS));
	if (run->id != ID_ZERO) {
		p = put_varint(p, zigzag(run->id - w->next_id));
		w->next_id = run->id + run->n;
	}
	w->len = (size_t)(p - w->bytes);
	w->end = run->first + run->n;
	return 0;
}

void runs_open(struct runs_reader *r, const void *bytes, size_t len)
{
	*r = (struct runs_reader){.at = bytes, .limit = (const uint8_t *)bytes + len};
}

static bool read_run(struct runs_reader *r, struct page_ids *ret)
{
	uint64_t gap, word, delta, end;

	if (!get_varint(&r->at, r->limit, &gap) || !get_varint(&r->at, r->limit, &word))
		return false;
	ret->n = word / 2 + 1;
	if (__builtin_add_overflow(r->end, gap, &ret->first) ||
	    __builtin_add_overflow(ret->first, ret->n, &end))
		return false;
	ret->id = ID_ZERO;
	if (word % 2 == RUN_IDS) {
		if (!get_varint(&r->at, r->limit, &delta))
			return false;
		ret->id = r->next_id + unzigzag(delta);
		if (ret->id < ID_FIRST || __builtin_add_overflow(ret->id, ret->n, &r->next_id))
			return false;
	}
	r->end = end;
	return true;
}

int runs_next(struct runs_reader *r, struct page_ids *ret, struct err *err)
{
	struct page_ids run;

	if (r->at == r->limit)
		return 0;
	if (!read_run(r, &run))
		return err_set(err, ERR_CORRUPT, "a page table does not decode");
	*ret = run;
	return 1;
}
