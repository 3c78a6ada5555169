/* What an attached job shares with those who started it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "checkpointer/freeze.h"
#include "checkpointer/tracee/procfs.h"
#include "recovery/recovery.h"
#include "store/base/cleanup.h"
#include "watchdog/attached.h"

/* Documentation/admin-guide/devices.txt */
#define TTY_MAJOR	 4
#define PTY_SLAVE_MAJOR	 136
#define PTY_SLAVE_MAJORS 8

struct pipe_use {
	struct capsule_stream id;
	bool read, write;
};

struct pipe_uses {
	struct pipe_use *list;
	size_t n;
};

static bool is_terminal(const struct stat *st)
{
	unsigned number = major(st->st_rdev);

	return S_ISCHR(st->st_mode) &&
	       (number == TTY_MAJOR || number - PTY_SLAVE_MAJOR < PTY_SLAVE_MAJORS);
}

static int stat_fd(pid_t pid, int fd, struct stat *ret)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	return stat(path, ret);
}

static bool is_unnamed_pipe(pid_t pid, int fd)
{
	char path[64], target[16];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	return readlink(path, target, sizeof(target)) > 5 && target[0] == 'p';
}

static struct pipe_use *use_of(struct pipe_uses *uses, const struct stat *st)
{
	struct pipe_use *more;

	for (size_t i = 0; i < uses->n; i++)
		if (uses->list[i].id.dev == st->st_dev && uses->list[i].id.ino == st->st_ino)
			return &uses->list[i];
	more = reallocarray(uses->list, uses->n + 1, sizeof(*more));
	if (!more)
		return NULL;
	uses->list = more;
	more[uses->n] =
		(struct pipe_use){.id = {.used = true, .dev = st->st_dev, .ino = st->st_ino}};
	return &more[uses->n++];
}

static int note_pipe(struct pipe_uses *uses, pid_t pid, int fd, struct err *err)
{
	struct proc_fdinfo info;
	struct err gone;
	struct pipe_use *use;
	struct stat st;

	if (stat_fd(pid, fd, &st) < 0 || !S_ISFIFO(st.st_mode) || !is_unnamed_pipe(pid, fd) ||
	    proc_read_fdinfo(pid, fd, &info, &gone) < 0)
		return 0;
	use = use_of(uses, &st);
	if (!use)
		return err_sys(err, "list of pipes");
	use->read |= (info.flags & O_ACCMODE) != O_WRONLY;
	use->write |= (info.flags & O_ACCMODE) != O_RDONLY;
	return 0;
}

static int note_pipes(struct pipe_uses *uses, const struct tree_root *root, struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	size_t n;

	if (list_tree(root, &pids, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		cleanup_free int *fds = NULL;
		struct err gone;
		size_t n_fds;

		if (proc_list_numbers(pids[i], "fd", &fds, &n_fds, &gone) < 0)
			continue;
		for (size_t j = 0; j < n_fds; j++)
			if (note_pipe(uses, pids[i], fds[j], err) < 0)
				return -1;
	}
	return 0;
}

static bool is_outside(const struct pipe_use *use)
{
	return use->read != use->write;
}

static bool leads_outside(const struct pipe_uses *uses, const struct stat *st)
{
	if (S_ISSOCK(st->st_mode))
		return true;
	for (size_t i = 0; i < uses->n; i++)
		if (uses->list[i].id.dev == st->st_dev && uses->list[i].id.ino == st->st_ino)
			return is_outside(&uses->list[i]);
	return false;
}

static void find_stream(struct attached_streams *s, pid_t root, int number,
			const struct pipe_uses *uses)
{
	struct stat st;

	if (stat_fd(root, number, &st) < 0)
		return;
	if (is_terminal(&st)) {
		if (!s->terminal.used)
			s->terminal = (struct capsule_stream){.used = true,
							      .dev = st.st_dev,
							      .ino = st.st_ino,
							      .rdev = st.st_rdev};
	} else if ((S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) && leads_outside(uses, &st)) {
		s->stream[number] =
			(struct capsule_stream){.used = true, .dev = st.st_dev, .ino = st.st_ino};
	}
}

static int keep_outside(struct attached_streams *s, const struct pipe_uses *uses, struct err *err)
{
	s->outside = calloc(uses->n + 1, sizeof(*s->outside));
	if (!s->outside)
		return err_sys(err, "list of pipes");
	for (size_t i = 0; i < uses->n; i++)
		if (is_outside(&uses->list[i]))
			s->outside[s->n_outside++] = uses->list[i].id;
	return 0;
}

int attached_streams_find(struct attached_streams *ret, const struct tree_root *root,
			  struct err *err)
{
	struct attached_streams s = {0};
	struct pipe_uses uses = {0};
	int result = note_pipes(&uses, root, err);

	for (int i = 0; result == 0 && i < 3; i++)
		find_stream(&s, root->pid, i, &uses);
	if (result == 0)
		result = keep_outside(&s, &uses, err);
	free(uses.list);
	if (result == 0)
		*ret = s;
	return result;
}

void attached_streams_clear(struct attached_streams *streams)
{
	free(streams->outside);
	*streams = (struct attached_streams){0};
}

int attached_look(pid_t pid, Snap__Snapshot **ret_model, struct refusals *ret_refusals,
		  struct err *err)
{
	struct checkpoint_config config = {.leader_vpid = pid, .check_model = recovery_check_relations};
	struct attached_streams streams;
	struct attach_target target;
	int result;

	if (attach_target_read(&target, pid, err) < 0)
		return -1;
	config.root =
		(struct tree_root){.pid = pid, .attached = true, .start_time = target.start_time};
	attach_target_clear(&target);
	if (attached_streams_find(&streams, &config.root, err) < 0)
		return -1;
	memcpy(config.stream, streams.stream, sizeof(config.stream));
	config.terminal = streams.terminal;
	config.inherited = streams.outside;
	config.n_inherited = streams.n_outside;
	result = checkpointer_look(&config, ret_model, ret_refusals, err);
	attached_streams_clear(&streams);
	return result;
}
