#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "watchdog/pump_flows.h"

bool outflow_has_pending(const struct outflow *f)
{
	return f->used > f->sent;
}

bool outflow_wants_more(const struct outflow *f)
{
	return f->job_fd >= 0 && f->used - f->sent < PUMP_BACKLOG;
}

static bool make_room(struct outflow *f, size_t len)
{
	size_t room = f->room ? f->room : 4096;
	char *more;

	if (f->sent > 0) {
		memmove(f->pending, f->pending + f->sent, f->used - f->sent);
		f->used -= f->sent;
		f->sent = 0;
	}
	while (room < f->used + len)
		room *= 2;
	if (room == f->room)
		return true;
	more = realloc(f->pending, room);
	if (!more)
		return false;
	f->pending = more;
	f->room = room;
	return true;
}

size_t drop_cr(char *data, size_t len, bool *held)
{
	char *in = data + (*held ? 0 : 1), *end = data + 1 + len, *out = data;

	if (*held)
		data[0] = '\r';
	*held = false;
	for (; in < end; in++) {
		if (*in == '\r' && in + 1 == end) {
			*held = true;
			break;
		}
		if (*in == '\r' && in[1] == '\n')
			continue;
		*out++ = *in;
	}
	return (size_t)(out - data);
}

/* data has one byte of room in front. */
static void pass_on(struct pump *pump, struct outflow *f, char *data, size_t len)
{
	uint64_t skip = f->skip < len ? f->skip : len;

	f->skip -= skip;
	data += skip;
	len -= skip;
	if (f->drop_cr || f->held_cr)
		len = drop_cr(--data, len, &f->held_cr);
	if (len == 0 || f->outlet.kind == OUTLET_GONE)
		return;
	if (!make_room(f, len)) {
		log_warn("out of memory: %zu bytes of the job's output are only in its log", len);
		return;
	}
	memcpy(f->pending + f->used, data, len);
	f->used += len;
}

static void keep(struct pump *pump, const struct outflow *f, const char *data, size_t len)
{
	enum joblog_stream stream = (enum joblog_stream)(f - pump->out + 1);
	struct err err;

	if (joblog_append(pump->log, stream, data, len, &err) == 0) {
		pump->log_failed = false;
		return;
	}
	if (!pump->log_failed)
		log_warn("output is missing from the job's log: %s", err.msg);
	pump->log_failed = true;
}

/* All writers have closed it: the reader behind us is to see the end of file (pump_hang_up).
 * Standard error stays open for pawl's own messages. */
static void end_of_output(struct pump *pump, struct outflow *f)
{
	if (pump->keys.master == f->job_fd)
		pump->keys.master = -1;
	close(f->job_fd);
	f->job_fd = -1;
	f->ended = !f->terminal && f->outlet.number == STDOUT_FILENO;
	f->ended_at = clock_ns(CLOCK_MONOTONIC);
}

bool outflow_hang_up(struct outflow *f, uint64_t now)
{
	if (!f->ended)
		return false;
	if (outflow_has_pending(f) || now - f->ended_at < PUMP_GRACE_NS)
		return true;
	f->ended = false;
	outlet_hang_up(&f->outlet);
	return false;
}

bool outflow_read(struct pump *pump, struct outflow *f)
{
	char buf[1 + 65536];
	ssize_t n = read(f->job_fd, buf + 1, sizeof(buf) - 1);

	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n <= 0) {
		/* EIO of a master: nobody has the slave open, so init is dead, and the job with it.
		 */
		end_of_output(pump, f);
		return false;
	}
	keep(pump, f, buf + 1, (size_t)n);
	pass_on(pump, f, buf + 1, (size_t)n);
	return true;
}

/* The job gets what it would get without pawl: a pipe that nobody reads. */
static void reader_lost(struct pump *pump, struct outflow *f)
{
	outlet_close(&f->outlet);
	f->used = f->sent = 0;
	f->reader_gone = true;
	if (f->terminal || f->job_fd < 0)
		return;
	while (f->job_fd >= 0 && outflow_read(pump, f))
		;
	cleanup_fd_p(&f->job_fd);
	f->job_fd = -1;
}

void outflow_write(struct pump *pump, struct outflow *f)
{
	ssize_t n = outlet_write(&f->outlet, f->pending + f->sent, f->used - f->sent);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n < 0) {
		if (errno != EPIPE && errno != ECONNRESET && errno != EIO)
			log_warn("cannot pass on the job's output: %s", strerror(errno));
		reader_lost(pump, f);
		return;
	}
	f->sent += (size_t)n;
	if (f->terminal && n > 0)
		pump->wrote_line_start = f->pending[f->sent - 1] == '\n';
	if (outflow_has_pending(f))
		return;
	f->sent = f->used = 0;
}
