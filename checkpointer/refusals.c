#include "checkpointer/refusals.h"

#include <stdlib.h>
#include <string.h>

/* A job with more is described well enough. */
#define REFUSALS_MOST 1000

void refusals_clear(struct refusals *r)
{
	for (size_t i = 0; i < r->n; i++)
		free(r->texts[i]);
	free(r->texts);
	*r = (struct refusals){0};
}

static int add(struct refusals *r, const char *text, struct err *err)
{
	char **more;

	for (size_t i = 0; i < r->n; i++)
		if (strcmp(r->texts[i], text) == 0)
			return 0;
	if (r->n == REFUSALS_MOST)
		return 0;
	more = reallocarray(r->texts, r->n + 1, sizeof(*more));
	if (!more)
		return err_sys(err, "list of what cannot be saved");
	r->texts = more;
	more[r->n] = strdup(text);
	if (!more[r->n])
		return err_sys(err, "list of what cannot be saved");
	r->n++;
	return 0;
}

void refusals_copy(struct refusals *ret, const struct refusals *from)
{
	struct err full;

	for (size_t i = 0; i < from->n; i++)
		if (add(ret, from->texts[i], &full) < 0)
			return;
}

bool refusals_equal(const struct refusals *a, const struct refusals *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->texts[i], b->texts[i]) != 0)
			return false;
	return true;
}

int refusals_go_on(struct refusals *r, int result, struct err *err)
{
	struct err refused = *err;

	if (result >= 0)
		return 0;
	return refused.kind == ERR_UNSUPPORTED ? add(r, refused.msg, err) : -1;
}

int refusals_result(const struct refusals *r, struct err *err)
{
	if (r->n == 0)
		return 0;
	if (r->n == 1)
		return err_set(err, ERR_UNSUPPORTED, "%s", r->texts[0]);
	return err_set(err, ERR_UNSUPPORTED, "%.400s (and %zu more)", r->texts[0], r->n - 1);
}
