#include "checkpointer/track_impl.h"

/* No tracking: every populated page is a candidate, and the hash decides. Always works. */

static int none_begin(struct tracker *t, struct remote *remote, struct tracee *thread,
		      struct err *err)
{
	return 0;
}

static int none_scan(struct tracker *t, uint64_t start, uint64_t end, unsigned how,
		     struct scan_result *result, struct err *err)
{
	return scan_with(t->pagemap, start, end, result, err);
}

static int none_rearm(struct tracker *t, struct err *err)
{
	return 0;
}

static bool none_probe(void)
{
	return true;
}

const struct tracker_ops tracker_none_ops = {
	.begin = none_begin, .scan = none_scan, .rearm = none_rearm, .probe = none_probe};
