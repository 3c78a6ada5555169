/*
 * Pseudo-terminals of the job's own, under their old numbers, in the capsule's own /dev/pts.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/tracee/terminal.h"
#include "recovery/batch.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

/* The lowest free number is given: those below are kept busy until the wanted one comes. */
static int open_master(const char *ptmx, int wanted, struct err *err)
{
	cleanup_fd int fd = open(ptmx, O_RDWR | O_NOCTTY | O_CLOEXEC), deeper = -1;
	int index;

	if (fd < 0 || ioctl(fd, TIOCGPTN, &index) < 0)
		return err_sys(err, "pseudo-terminal %d", wanted);
	if (index > wanted)
		return err_set(err, ERR_BUSY, "pseudo-terminal %d is taken", wanted);
	if (index == wanted)
		return steal_fd(&fd);
	deeper = open_master(ptmx, wanted, err);
	return steal_fd(&deeper);
}

static int open_slave(const struct terminal_slot *slot, int flags)
{
	return ioctl(slot->master, TIOCGPTPEER, flags | O_NOCTTY | O_CLOEXEC);
}

static void set_node(struct recovery *rec, const Snap__Terminal *t)
{
	char name[64], buf[PATH_MAX + 64];
	const char *path;

	if (!t->mode)
		return;
	snprintf(name, sizeof(name), "/dev/pts/%d", t->index);
	path = capsule_path(rec, name, buf, sizeof(buf));
	if (chown(path, t->uid, t->gid) < 0 || chmod(path, t->mode & 07777) < 0)
		log_debug("%s: owner and mode not restored: %s", name, strerror(errno));
}

int terminal_make(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__Terminal *t = rec->model->terminals[index];
	struct terminal_slot *slot = &rec->terminals[index];
	char buf[PATH_MAX + 64];
	int unlocked = 0;

	slot->master = open_master(capsule_path(rec, "/dev/pts/ptmx", buf, sizeof(buf)), t->index, err);
	if (slot->master < 0)
		return -1;
	if (ioctl(slot->master, TIOCSPTLCK, &unlocked) < 0)
		return err_sys(err, "pseudo-terminal %d", t->index);
	if (t->slave_opened && (slot->slave = open_slave(slot, O_RDWR)) < 0)
		return err_sys(err, "slave of pseudo-terminal %d", t->index);
	if (t->hung_up)
		return 0;
	set_node(rec, t);
	return terminal_write(slot->master, slot->slave, t, err) < 0
		       ? err_wrap(err, "pseudo-terminal %d", t->index)
		       : 0;
}

int open_pty(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	const struct terminal_slot *slot = &rec->terminals[open->terminal];
	int fd;

	if (open->kind == SNAP__OPEN_FILE__KIND__PTY_MASTER)
		fd = fcntl(slot->master, F_DUPFD_CLOEXEC, 0);
	else
		fd = open_slave(slot, (int)open->flags & (O_ACCMODE | O_NONBLOCK));
	rec->open_fds[index] = fd;
	if (fd < 0 || set_nonblock(fd, open->flags) < 0)
		return err_sys(err, "pseudo-terminal %d", rec->model->terminals[open->terminal]->index);
	return 0;
}

/* Signals are blocked in a stub, so that nothing comes of being in the background. */
static int take_control(struct recovery *rec, struct stub *stub, const struct terminal_slot *slot,
			const Snap__Terminal *t, struct err *err)
{
	struct batch b;
	int number;

	if (stub_send(rec, stub, &slot->slave, 1, &number, err) < 0)
		return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if (batch_call(&b, BATCH_MUST, err, SYS_ioctl, ARGS((uint64_t)number, TIOCSCTTY, 0),
		       "controlling terminal %d", t->index) < 0 ||
	    batch_room(&b, 2, sizeof(t->foreground), err) < 0)
		return -1;
	if (t->foreground &&
	    batch_call(&b, BATCH_WARN, err, SYS_ioctl,
		       ARGS((uint64_t)number, TIOCSPGRP,
			    batch_push(&b, &t->foreground, sizeof(t->foreground))),
		       "foreground group of terminal %d", t->index) < 0)
		return -1;
	if (batch_call(&b, BATCH_MUST, err, SYS_close, ARGS((uint64_t)number), "close") < 0)
		return -1;
	return batch_run(&b, err);
}

int terminal_finish(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__Terminal *t = rec->model->terminals[index];
	struct terminal_slot *slot = &rec->terminals[index];
	struct stub *leader = t->session ? stub_by_pid(rec, t->session) : NULL;

	if (leader && slot->slave >= 0 && take_control(rec, leader, slot, t, err) < 0)
		return -1;
	if (!t->hung_up && terminal_close(slot->master, slot->slave, t, err) < 0)
		return -1;
	terminal_forget(slot);
	return 0;
}

void terminal_forget(struct terminal_slot *slot)
{
	cleanup_fd_p(&slot->slave);
	cleanup_fd_p(&slot->master);
	slot->master = slot->slave = -1;
}
