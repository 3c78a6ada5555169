/* Memory of a job that is still on its way here (recovery/ahead.h). */
#include "recovery/ahead.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/socket.h>

#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "watchdog/supervise.h"

/* A signal that asks for the end ends the waiting, too. */
static int next_order(struct watchdog *w, struct handover_order *ret, struct err *err)
{
	struct pollfd fds[2] = {{.fd = w->config->confirm_fd, .events = POLLIN}, {.fd = w->signals, .events = POLLIN}};
	ssize_t n;

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[1].revents)
		return err_set(err, ERR_GONE, "a signal has come");
	n = recv(w->config->confirm_fd, ret, sizeof(*ret), MSG_WAITALL);
	if (n != (ssize_t)sizeof(*ret))
		return err_set(err, ERR_GONE, "whoever was to say what to recover has gone");
	return 0;
}

/* Its clocks are set when the snapshot is there that the job goes on from. */
static int make_capsule(struct watchdog *w, struct err *err)
{
	const struct capsule_config config = {.plain_root = true, .terminal = -1, .stream = {-1, -1, -1}};

	if (!w->capsule_ahead && capsule_create(&w->capsule_ahead, &config, err) < 0)
		return -1;
	return w->capsule_ahead->plain ? err_set(err, ERR_UNSUPPORTED, "there is no capsule") : 0;
}

static int fill_from(struct watchdog *w, uint64_t seq, const Snap__Snapshot *model, struct err *err)
{
	const struct recovery_options options = {0};
	struct recovery_host host;

	if (recovery_check(model, w->store, &options, err) < 0) /* it comes from elsewhere */
		return -1;
	if (model->capsule && model->capsule->has_terminal) /* see take_capsule_ahead() */
		return err_set(err, ERR_UNSUPPORTED, "the job has a terminal");
	if (make_capsule(w, err) < 0)
		return -1;
	host = capsule_recovery_host(w->capsule_ahead);
	return ahead_update(&w->ahead, &host, w->store, w->config->name, seq, model, err);
}

static int fill(struct watchdog *w, uint64_t seq, struct err *err)
{
	Snap__Snapshot *model;
	int rc;

	if (store_snapshot_load(w->store, w->config->name, seq, NULL, &model, err) < 0)
		return -1;
	rc = fill_from(w, seq, model, err);
	snap__snapshot__free_unpacked(model, NULL);
	return rc;
}

static int carry_out(struct watchdog *w, const struct handover_order *order, struct err *err)
{
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	char word = HANDOVER_FILLED;
	struct err why;

	if (fill(w, order->seq, &why) < 0) {
		log_debug("%s@%" PRIu64 ": memory is not put up ahead: %s", w->config->name, order->seq, why.msg);
		word = HANDOVER_UNFILLED;
	} else {
		log_debug("%s@%" PRIu64 ": %" PRIu64 " MiB of memory put up ahead in %" PRIu64 " ms", w->config->name,
			  order->seq, ahead_size(w->ahead) >> 20, (clock_ns(CLOCK_MONOTONIC) - begin) / 1000000);
	}
	if (send(w->config->confirm_fd, &word, 1, MSG_NOSIGNAL) != 1)
		return err_set(err, ERR_GONE, "whoever was to say what to recover has gone");
	return 0;
}

int wd_await_start(struct watchdog *w, struct err *err)
{
	struct handover_order order;

	for (;;) {
		if (next_order(w, &order, err) < 0)
			return -1;
		if (order.kind == HANDOVER_START)
			break;
		if (order.kind != HANDOVER_AHEAD)
			return err_set(err, ERR_INVALID, "unknown order %d", (int)order.kind);
		if (carry_out(w, &order, err) < 0)
			return -1;
	}
	w->recover_seq = order.seq;
	return 0;
}

void wd_drop_ahead(struct watchdog *w)
{
	ahead_free(w->ahead);
	w->ahead = NULL;
	capsule_destroy(w->capsule_ahead);
	w->capsule_ahead = NULL;
}
