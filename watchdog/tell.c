/*
 * What a service manager is told of the job: that it runs, what is being done with it, that we
 * live, and that what takes long is still under way.
 */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/units.h"
#include "watchdog/supervise.h"

/* Promised anew in thirds, so that a late turn of the loop costs nothing. */
#define EXTEND_NS (30 * NSEC_PER_SEC)

static bool is_starting(const struct watchdog *w)
{
	return w->state == WD_RECOVERING || w->state == WD_ROLL_BACK;
}

static bool is_ending(const struct watchdog *w)
{
	return w->state == WD_STOPPING || w->state == WD_STOPPING_GONE ||
	       w->state == WD_STOP_PENDING || w->state == WD_ENDING || w->state == WD_CANCELLED;
}

/* One line for people. */
static void describe(const struct watchdog *w, char *buf, size_t len)
{
	const struct snapshot_info *last = w->progress.has_last ? &w->progress.last : NULL;
	char pause[32], size[32];

	if (w->finished_before)
		snprintf(buf, len, "%s has finished already", w->job.name);
	else if (is_starting(w))
		snprintf(buf, len, "recovering %s@%" PRIu64, w->job.name, w->resume.seq);
	else if (is_ending(w))
		snprintf(buf, len, "saving %s a last time", w->job.name);
	else if (w->state == WD_STANDING)
		snprintf(buf, len, "%s stands stopped for a debugger", w->job.name);
	else if (last)
		snprintf(buf, len, "%s runs, saved as %s@%" PRIu64 " (pause %s, %s)", w->job.name,
			 w->job.name, last->seq,
			 format_duration(last->pause_us * 1000, pause, sizeof(pause)),
			 format_size(last->bytes_stored, size, sizeof(size)));
	else if (w->resume.seq)
		snprintf(buf, len, "%s runs, since it was recovered from %s@%" PRIu64, w->job.name,
			 w->job.name, w->resume.seq);
	else
		snprintf(buf, len, "%s runs", w->job.name);
}

static void tell_state(struct watchdog *w)
{
	char text[512];

	if (w->told.state == w->state && w->told.seq == w->progress.last.seq)
		return;
	describe(w, text, sizeof(text));
	if (is_ending(w) && !w->told.stopping) {
		sdnotify_send(&w->notify, "STOPPING=1");
		w->told.stopping = true;
	}
	if (!is_starting(w) && !is_ending(w) && !w->told.ready) {
		sdnotify_send(&w->notify, "READY=1");
		w->told.ready = true;
	}
	sdnotify_send(&w->notify, "STATUS=%s", text);
	w->told.state = w->state;
	w->told.seq = w->progress.last.seq;
}

void wd_tell_service(struct watchdog *w)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (w->notify.fd < 0)
		return;
	tell_state(w);
	if ((is_starting(w) || is_ending(w)) && now >= w->told.next_extension) {
		sdnotify_send(&w->notify, "EXTEND_TIMEOUT_USEC=%" PRIu64,
			      (uint64_t)(EXTEND_NS / 1000));
		w->told.next_extension = now + EXTEND_NS / 3;
	}
	if (w->notify.watchdog_ns && now >= w->told.next_sign) {
		sdnotify_send(&w->notify, "WATCHDOG=1");
		w->told.next_sign = now + w->notify.watchdog_ns / 3;
	}
}

uint64_t wd_next_tell(const struct watchdog *w)
{
	uint64_t next = UINT64_MAX;

	if (w->notify.fd < 0)
		return next;
	if (is_starting(w) || is_ending(w))
		next = w->told.next_extension;
	if (w->notify.watchdog_ns && w->told.next_sign < next)
		next = w->told.next_sign;
	return next;
}

void wd_tell_end(struct watchdog *w)
{
	if (w->stopped && w->final.seq)
		sdnotify_send(&w->notify, "STATUS=%s is stopped; it goes on from %s@%" PRIu64,
			      w->job.name, w->job.name, w->final.seq);
	sdnotify_close(&w->notify);
}
