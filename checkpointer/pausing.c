#include "checkpointer/pausing.h"

#include <stdlib.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/log.h"

void pausing_begin(struct pausing *p, uint64_t at)
{
	p->mark = at;
}

void pausing_end(struct pausing *p, enum pause_part part)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	p->ns[part] += now - p->mark;
	p->mark = now;
}

int pausing_note(const struct pausing *p, Snap__Snapshot *model, struct err *err)
{
	Snap__Pause *m = model->pause ? model->pause : malloc(sizeof(*m));

	if (!m)
		return err_sys(err, "the snapshot's pause");
	snap__pause__init(m);
	m->arm = p->ns[PAUSE_ARM] / 1000;
	m->freeze = p->ns[PAUSE_FREEZE] / 1000;
	m->describe = p->ns[PAUSE_DESCRIBE] / 1000;
	m->scan = p->ns[PAUSE_SCAN] / 1000;
	m->copy = p->ns[PAUSE_COPY] / 1000;
	m->files = p->ns[PAUSE_FILES] / 1000;
	m->streams = p->ns[PAUSE_STREAMS] / 1000;
	m->release = p->ns[PAUSE_RELEASE] / 1000;
	model->pause = m;
	return 0;
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

void pausing_log(const struct pausing *p)
{
	log_debug("pause: arm %.1f ms, freeze %.1f, describe %.1f, scan %.1f, copy %.1f, files %.1f, "
		  "streams %.1f, release %.1f",
		  ms(p->ns[PAUSE_ARM]), ms(p->ns[PAUSE_FREEZE]), ms(p->ns[PAUSE_DESCRIBE]),
		  ms(p->ns[PAUSE_SCAN]), ms(p->ns[PAUSE_COPY]), ms(p->ns[PAUSE_FILES]),
		  ms(p->ns[PAUSE_STREAMS]), ms(p->ns[PAUSE_RELEASE]));
}
