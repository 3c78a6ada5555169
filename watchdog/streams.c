#include "watchdog/streams.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "store/base/cleanup.h"

void streams_init(struct streams *streams)
{
	*streams = (struct streams){.outer = {.fd = -1}, .job_end = {-1, -1, -1}, .slave = -1};
	pump_init(&streams->pump);
}

void streams_clear(struct streams *streams)
{
	streams_close_job_ends(streams);
	pump_clear(&streams->pump);
}

/* ---- what they are ------------------------------------------------------------------------- */

/* A file that its path does not lead us to, or not with the same rights, could never be put back as
 * it was: somebody else opened it for us. Its bytes are pumped like a pipe's then, and kept in the
 * log. */
static bool can_be_put_back(int fd, const struct stat *st)
{
	char link[64], path[PATH_MAX];
	struct stat found;
	ssize_t n;

	if (!S_ISREG(st->st_mode) || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY ||
	    st->st_nlink == 0)
		return true;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return false;
	path[n] = '\0';
	return stat(path, &found) == 0 && found.st_dev == st->st_dev &&
	       found.st_ino == st->st_ino && access(path, R_OK | W_OK) == 0;
}

static enum stream_kind kind_of(int fd)
{
	struct stat st;

	if (isatty(fd))
		return STREAM_TERMINAL;
	if (fstat(fd, &st) < 0)
		return STREAM_CLOSED;
	if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || !can_be_put_back(fd, &st))
		return STREAM_PUMPED;
	return STREAM_AS_IS;
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static void find_outer_terminal(struct streams *s)
{
	int i;

	for (i = 0; i < 3 && s->outer.fd < 0; i++)
		if (isatty(i))
			s->outer.fd = i;
	s->outer.keys = s->outer.fd == 0;
	s->outer.keep_post = !isatty(STDOUT_FILENO);
}

static bool is_null_device(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
}

void streams_classify(struct streams *s, const struct caller *caller, bool keep_output)
{
	int i;

	for (i = 0; i < 3; i++) {
		s->kind[i] = caller->closed[i] ? STREAM_CLOSED : kind_of(i);
		if (i > 0 && keep_output && s->kind[i] == STREAM_AS_IS && is_null_device(i))
			s->kind[i] = STREAM_PUMPED;
		s->terminal |= s->kind[i] == STREAM_TERMINAL;
	}
	s->joined = s->kind[1] == STREAM_PUMPED && s->kind[2] == STREAM_PUMPED && same_file(1, 2);
	if (s->terminal)
		find_outer_terminal(s);
}

void streams_from_model(struct streams *s, const Snap__Snapshot *model)
{
	size_t i;

	for (i = 0; i < 3; i++)
		s->kind[i] = STREAM_AS_IS;
	s->terminal = false;
	s->joined = false;
	for (i = 0; i < model->n_open_files; i++) {
		const Snap__OpenFile *file = model->open_files[i];

		if (file->kind == SNAP__OPEN_FILE__KIND__STREAM && file->stream >= 0 &&
		    file->stream < 3)
			s->kind[file->stream] = STREAM_PUMPED;
		if (file->kind == SNAP__OPEN_FILE__KIND__TERMINAL)
			s->terminal = true;
	}
	s->terminal |= model->capsule && model->capsule->has_terminal;
	if (s->terminal && s->outer.fd < 0)
		find_outer_terminal(s);
}

/* ---- making them --------------------------------------------------------------------------- */

static struct capsule_stream identify(int fd, bool terminal)
{
	struct capsule_stream id = {0};
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return id;
	id.used = true;
	id.dev = st.st_dev;
	id.ino = st.st_ino;
	id.rdev = terminal ? st.st_rdev : 0;
	return id;
}

static int make_pipe(int *ret_read, int *ret_write, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, "cannot make a pipe for the job");
	*ret_read = ends[0];
	*ret_write = ends[1];
	return 0;
}

static int build_input(struct streams *s, struct err *err)
{
	struct inflow *in = &s->pump.in;

	if (make_pipe(&s->job_end[0], &in->job_fd, err) < 0)
		return -1;
	if (fcntl(in->job_fd, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, "cannot set up a pipe for the job");
	in->used = true;
	return 0;
}

void streams_open_input(struct streams *s, uint64_t position, uint64_t skip)
{
	struct inflow *in = &s->pump.in;

	if (!in->used)
		return;
	in->written = position;
	in->open = true;
	if (in->outer_opened)
		return;
	in->outer_opened = true;
	in->skip = skip;
	if (stdinlog_ended(s->pump.input))
		inlet_close(-1, STDIN_FILENO);
	else
		in->outer = inlet_open(STDIN_FILENO);
}

static int build_output(struct streams *s, int number, struct err *err)
{
	struct outflow *out = &s->pump.out[number - 1];

	if (make_pipe(&out->job_fd, &s->job_end[number], err) < 0)
		return -1;
	if (fcntl(out->job_fd, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, "cannot set up a pipe for the job");
	if (out->reader_gone)
		pump_close(&out->job_fd);
	else if (out->outlet.kind == OUTLET_GONE)
		out->outlet = outlet_open(number);
	return 0;
}

/* The one descriptor of the caller's that stands for the job's terminal. */
static int terminal_number(const struct streams *s)
{
	if (isatty(STDOUT_FILENO) || s->outer.fd < 0)
		return STDOUT_FILENO;
	return isatty(STDERR_FILENO) ? STDERR_FILENO : s->outer.fd;
}

static int build_terminal(struct streams *s, const Snap__Snapshot *model, struct err *err)
{
	struct outflow *out = &s->pump.out[JOBLOG_TERMINAL - 1];

	if (pty_open(&out->job_fd, &s->slave, err) < 0)
		return -1;
	out->terminal = true;
	if (out->outlet.kind == OUTLET_GONE && !out->reader_gone)
		out->outlet = outlet_open(terminal_number(s));
	if (model && pty_load(out->job_fd, model->capsule, err) < 0)
		return -1;
	if (!model && s->outer.fd >= 0)
		pty_copy_settings(out->job_fd, s->outer.fd);
	if (model && s->outer.fd >= 0)
		pty_copy_size(out->job_fd, s->outer.fd);
	s->pump.keys.master = out->job_fd;
	if (s->outer.keys && s->pump.keys.outer < 0)
		s->pump.keys.outer = inlet_open(STDIN_FILENO);
	return 0;
}

static int build_stream(struct streams *s, int i, struct err *err)
{
	switch (s->kind[i]) {
	case STREAM_AS_IS:
		s->job_end[i] = i;
		return 0;
	case STREAM_TERMINAL:
		s->job_end[i] = s->slave;
		return 0;
	case STREAM_PUMPED:
		if (i == 2 && s->joined) {
			s->job_end[2] = s->job_end[1];
			return 0;
		}
		return i == 0 ? build_input(s, err) : build_output(s, i, err);
	case STREAM_CLOSED:
	default:
		return 0;
	}
}

int streams_build(struct streams *s, const Snap__Snapshot *model, struct err *err)
{
	int i;

	if (s->terminal && build_terminal(s, model, err) < 0)
		return -1;
	for (i = 0; i < 3; i++)
		if (build_stream(s, i, err) < 0)
			return -1;
	for (i = 0; i < 3; i++)
		if (s->kind[i] == STREAM_PUMPED)
			s->identity[i] = identify(s->job_end[i], false);
	s->terminal_identity = identify(s->slave, true);
	return 0;
}

void streams_close_job_ends(struct streams *s)
{
	int i;

	if (s->joined)
		s->job_end[2] = -1;
	for (i = 0; i < 3; i++) {
		if (s->job_end[i] > 2 && s->job_end[i] != s->slave)
			close(s->job_end[i]);
		s->job_end[i] = -1;
	}
	pump_close(&s->slave);
}

void streams_detach(struct streams *s)
{
	streams_close_job_ends(s);
	pump_detach(&s->pump);
}

/* ---- the caller's terminal ----------------------------------------------------------------- */

static void note_mode(struct streams *s)
{
	struct outflow *out = &s->pump.out[JOBLOG_TERMINAL - 1];

	pthread_mutex_lock(&s->pump.lock);
	out->drop_cr = isatty(out->outlet.number) && outer_adds_cr(&s->outer);
	s->pump.keys.wanted = s->outer.raw;
	pthread_mutex_unlock(&s->pump.lock);
}

void streams_enter_terminal(struct streams *s)
{
	if (!s->terminal)
		return;
	outer_enter(&s->outer);
	note_mode(s);
}

void streams_leave_terminal(struct streams *s)
{
	if (!s->terminal)
		return;
	outer_leave(&s->outer);
	note_mode(s);
}
