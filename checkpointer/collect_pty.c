#include "checkpointer/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "checkpointer/tracee/terminal.h"
#include "store/base/cleanup.h"

/*
 * Pseudo-terminals of the job's own. Masters and slaves are described with the other descriptors; what
 * there is between them, when all of these are known: a slave that nobody has ever opened must not be
 * opened by us either, for the master would find it closed.
 */

#define TTY_AUX_MAJOR	 5 /* /dev/tty, console, ptmx (Documentation/admin-guide/devices.txt) */
#define PTMX_MINOR	 2
#define PTS_FIRST_MAJOR	 136
#define PTS_LAST_MAJOR	 143

bool is_pty(const struct stat *st)
{
	unsigned number = major(st->st_rdev);

	return S_ISCHR(st->st_mode) &&
	       (st->st_rdev == makedev(TTY_AUX_MAJOR, PTMX_MINOR) ||
		(number >= PTS_FIRST_MAJOR && number <= PTS_LAST_MAJOR));
}

static int32_t find_terminal(struct collection *c, int index, bool hung_up, struct err *err)
{
	Snap__Terminal *t;

	for (size_t i = 0; i < c->model->n_terminals; i++)
		if (c->model->terminals[i]->index == index && c->model->terminals[i]->hung_up == hung_up)
			return (int32_t)i;
	t = snap_append(&c->model->terminals, &c->model->n_terminals, Snap__Terminal, SNAP__TERMINAL__INIT);
	if (!t)
		return err_sys(err, "list of terminals");
	t->index = index;
	t->hung_up = hung_up;
	t->slave_opened = hung_up;
	return (int32_t)c->model->n_terminals - 1;
}

/* Index of a slave: its minor number, counted on over the majors. */
static int slave_index(const struct stat *st)
{
	return (int)((major(st->st_rdev) - PTS_FIRST_MAJOR) << 20 | minor(st->st_rdev));
}

static bool is_of_capsule(const struct collection *c, const struct stat *st)
{
	struct stat dir;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/root/dev/pts", c->config->root.pid);
	return stat(path, &dir) == 0 && dir.st_dev == st->st_dev;
}

int describe_pty(struct collection *c, const struct collected_process *p, const struct descriptor *d,
		 Snap__OpenFile *o, struct err *err)
{
	bool master = d->st.st_rdev == makedev(TTY_AUX_MAJOR, PTMX_MINOR);
	cleanup_fd int fd = descriptor_fetch(p, d->fd, err);
	struct winsize size;
	bool hung_up;
	int index;

	if (fd < 0)
		return -1;
	if (!master && !is_of_capsule(c, &d->st))
		return descriptor_refuse(p, d, "a terminal that is not the job's own", err);
	hung_up = ioctl(fd, TIOCGWINSZ, &size) < 0;
	if (!master)
		index = slave_index(&d->st);
	else if (ioctl(fd, TIOCGPTN, &index) < 0)
		return err_sys(err, "process %d: fd %d: number of a pseudo-terminal", p->frozen->vpid, d->fd);
	o->kind = master ? SNAP__OPEN_FILE__KIND__PTY_MASTER : SNAP__OPEN_FILE__KIND__PTY_SLAVE;
	o->terminal = find_terminal(c, index, hung_up, err);
	if (o->terminal >= 0)
		c->model->terminals[o->terminal]->slave_opened |= !master;
	return o->terminal < 0 ? -1 : 0;
}

/* ---- when all descriptors are known -------------------------------------------------------- */

/* The model has the numbers of the capsule, TIOCGSID and TIOCGPGRP those of our namespace. */
static int32_t vpid_of(const struct collection *c, pid_t pid, bool session)
{
	for (size_t i = 0; i < c->n && pid > 0; i++) {
		const struct frozen_process *f = c->processes[i].frozen;

		if (session ? f->stat.sid == pid : f->stat.pgid == pid)
			return session ? f->vsid : f->vpgid;
	}
	return 0;
}

static void read_session(const struct collection *c, int master, Snap__Terminal *t)
{
	pid_t session = 0, foreground = 0;

	if (ioctl(master, TIOCGSID, &session) < 0 || ioctl(master, TIOCGPGRP, &foreground) < 0)
		return; /* nobody's controlling terminal */
	t->session = vpid_of(c, session, true);
	t->foreground = vpid_of(c, foreground, false);
}

static void read_node(const struct collection *c, Snap__Terminal *t)
{
	struct stat st;
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/root/dev/pts/%d", c->config->root.pid, t->index);
	if (stat(path, &st) < 0)
		return;
	t->mode = st.st_mode;
	t->uid = st.st_uid;
	t->gid = st.st_gid;
}

/* The job's own slave where it has one that can be read, else one more, which is harmless when it has been
 * open before. An exclusive one cannot be opened again. */
static int get_slave(const struct collection *c, int32_t terminal, int master, struct err *err)
{
	const struct collected_process *p;
	int locked = 0, off = 0, slave, fd;

	for (size_t i = 0; i < c->model->n_open_files; i++) {
		const Snap__OpenFile *o = c->model->open_files[i];

		if (o->kind == SNAP__OPEN_FILE__KIND__PTY_SLAVE && o->terminal == terminal &&
		    (o->flags & O_ACCMODE) == O_RDWR && find_holder(c, i, &p, &fd))
			return descriptor_fetch(p, fd, err);
	}
	if (ioctl(master, TIOCGPTLCK, &locked) < 0 || ioctl(master, TIOCSPTLCK, &off) < 0)
		return err_sys(err, "a pseudo-terminal's lock");
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		err_sys(err, "the slave of a pseudo-terminal");
	if (locked && ioctl(master, TIOCSPTLCK, &locked) < 0 && slave >= 0) {
		close(slave);
		return err_sys(err, "a pseudo-terminal's lock");
	}
	return slave;
}

static bool slave_has_closed(int master)
{
	struct pollfd p = {.fd = master, .events = POLLIN};

	return poll(&p, 1, 0) > 0 && (p.revents & POLLHUP);
}

static int collect_terminal(struct collection *c, size_t open_file, struct err *err)
{
	int32_t index = c->model->open_files[open_file]->terminal;
	Snap__Terminal *t = c->model->terminals[index];
	cleanup_fd int master = -1, slave = -1;
	const struct collected_process *p;
	int fd;

	if (!find_holder(c, open_file, &p, &fd))
		return err_set(err, ERR_SYSTEM, "a pseudo-terminal without a holder");
	master = descriptor_fetch(p, fd, err);
	if (master < 0)
		return -1;
	t->slave_opened = t->slave_opened || slave_has_closed(master);
	if (t->slave_opened && (slave = get_slave(c, index, master, err)) < 0)
		return err_wrap(err, "process %d: fd %d", p->frozen->vpid, fd);
	if (terminal_read(master, slave, t, err) < 0)
		return err_wrap(err, "process %d: fd %d", p->frozen->vpid, fd);
	if (t->discipline)
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d (%s): fd %d: a pseudo-terminal with line discipline %d",
			       p->frozen->vpid, p->frozen->stat.comm, fd, t->discipline);
	read_session(c, master, t);
	read_node(c, t);
	return 0;
}

/* A slave is nothing without its master, which may be outside the job. */
static int check_master(const struct collection *c, size_t terminal, struct err *err)
{
	const struct collected_process *p;
	int fd;

	for (size_t i = 0; i < c->model->n_open_files; i++)
		if (c->model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__PTY_MASTER &&
		    c->model->open_files[i]->terminal == (int32_t)terminal)
			return 0;
	for (size_t i = 0; i < c->model->n_open_files; i++) {
		const Snap__OpenFile *o = c->model->open_files[i];

		if (o->kind == SNAP__OPEN_FILE__KIND__PTY_SLAVE && o->terminal == (int32_t)terminal &&
		    find_holder(c, i, &p, &fd))
			return err_set(err, ERR_UNSUPPORTED,
				       "process %d (%s): fd %d: a terminal whose master is outside the job",
				       p->frozen->vpid, p->frozen->stat.comm, fd);
	}
	return 0;
}

int collect_terminals(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->model->n_open_files; i++)
		if (c->model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__PTY_MASTER &&
		    collect_terminal(c, i, err) < 0)
			return -1;
	for (size_t i = 0; i < c->model->n_terminals; i++)
		if (!c->model->terminals[i]->hung_up && check_master(c, i, err) < 0)
			return -1;
	return 0;
}
