#include <errno.h>
#include <sys/socket.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "watchdog/supervise.h"

#define PATIENCE_NS (30 * NSEC_PER_SEC)

bool wd_is_offer(const struct watchdog *w)
{
	return w->config->hold && w->config->confirm_fd >= 0 && !w->started;
}

static void give_up(struct watchdog *w, const struct err *why)
{
	struct err err = *why;

	err_wrap(&err, "job %s does not go on here", w->job.name);
	wd_fail(w, &err);
	wd_handle(w, WE_NO_CANDIDATE);
}

static bool tell(const struct watchdog *w, char what)
{
	return send(w->config->confirm_fd, &what, 1, MSG_NOSIGNAL) == 1;
}

void wd_offer(struct watchdog *w, const struct recovery_result *built)
{
	struct err err;

	w->offered = *built;
	w->offer_until = clock_ns(CLOCK_MONOTONIC) + PATIENCE_NS;
	if (tell(w, HANDOVER_READY)) {
		wd_drop_ahead(w); /* while the other side notes it */
		wd_handle(w, WE_OFFERED);
		return;
	}
	err_set(&err, ERR_GONE, "whoever was to say that it may has gone");
	give_up(w, &err);
}

/* From the record of the new generation on it is ours. */
static void accept_job(struct watchdog *w)
{
	struct err err;

	if (wd_release(w, &w->offered, &err) < 0) {
		give_up(w, &err);
		return;
	}
	wd_handle(w, WE_REBUILT);
	tell(w, HANDOVER_DONE);
	if (wd_replicas_start(w, &err) < 0)
		log_warn("job %s is not replicated: %s", w->job.name, err.msg);
}

void wd_look_at_offer(struct watchdog *w)
{
	struct err err;
	ssize_t n;
	char said;

	if (w->state != WD_OFFERED)
		return;
	n = recv(w->config->confirm_fd, &said, 1, MSG_DONTWAIT);
	if (n == 1 && said == HANDOVER_GO) {
		accept_job(w);
	} else if (n >= 0 || (errno != EAGAIN && errno != EINTR)) {
		err_set(&err, ERR_GONE, "whoever was to say that it may has gone");
		give_up(w, &err);
	} else if (clock_ns(CLOCK_MONOTONIC) >= w->offer_until) {
		err_set(&err, ERR_GONE, "nobody has said for %d s that it may", (int)(PATIENCE_NS / NSEC_PER_SEC));
		give_up(w, &err);
	}
}
