/*
 * What processes are to each other: ends and stops that a parent has not been told of, and the
 * pids.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "checkpointer/collect.h"

int collect_zombie(struct collected_process *p, struct err *err)
{
	const struct proc_stat *stat = &p->frozen->stat;
	Snap__Process *m = p->model;

	m->zombie = true;
	m->exit_status = stat->exit_code;
	m->exit_signal = stat->exit_signal;
	if (snap_set_string(&m->comm, p->frozen->status.name) < 0)
		return err_set(err, ERR_SYSTEM, "out of memory while describing the job");
	return take_credentials(&m->credentials, &p->frozen->status, err);
}

static struct collected_process *find_parent(struct collection *c,
					     const struct collected_process *p)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->processes[i].frozen->vpid == p->frozen->vppid)
			return c->processes[i].frozen->zombie ? NULL : &c->processes[i];
	return NULL;
}

/* Asks the parent, which keeps the report. */
static int ask_for_stop(struct collected_process *parent, struct collected_process *child,
			struct err *err)
{
	struct remote *r = &parent->remote;
	uint64_t addr;
	siginfo_t *info = remote_data(r, sizeof(*info), &addr);
	struct remote_call *call = remote_call(r, SYS_waitid, P_PID, (uint64_t)child->frozen->vpid,
					       addr, WSTOPPED | WNOHANG | WNOWAIT | __WALL, 0);
	int result = remote_run(r, &parent->frozen->threads[0]->tracee, err);

	if (result == 0)
		child->model->stop_reported = call->ret != 0 || info->si_pid == 0;
	remote_reset(r);
	return result;
}

static int collect_stops(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->n; i++) {
		struct collected_process *p = &c->processes[i], *parent;

		if (!p->model->stopped)
			continue;
		parent = find_parent(c, p);
		if (parent && parent->remote.mirror && ask_for_stop(parent, p, err) < 0)
			return err_wrap(err, "process %d", parent->frozen->vpid);
	}
	return 0;
}

/* Pids are given in turn; a job that goes on from low numbers would meet names made of old ones. */
static int collect_last_pid(struct collection *c, struct err *err)
{
	struct collected_process *p = NULL;
	struct remote_call *open;
	uint64_t path, addr;
	char *text;
	long fd;

	for (size_t i = 0; i < c->n && !p; i++)
		p = c->processes[i].remote.mirror ? &c->processes[i] : NULL;
	if (!p || !c->config->leader_vpid)
		return 0;
	path = remote_push_string(&p->remote, "/proc/sys/kernel/ns_last_pid");
	open = remote_call(&p->remote, SYS_open, path, O_RDONLY | O_CLOEXEC);
	if (remote_run(&p->remote, &p->frozen->threads[0]->tracee, err) < 0)
		return -1;
	fd = (long)open->ret;
	remote_reset(&p->remote);
	if (fd < 0)
		return 0;
	text = remote_data(&p->remote, 32, &addr);
	remote_call(&p->remote, SYS_read, (uint64_t)fd, addr, 31);
	remote_call(&p->remote, SYS_close, (uint64_t)fd);
	if (remote_run(&p->remote, &p->frozen->threads[0]->tracee, err) < 0)
		return -1;
	c->model->capsule->last_pid = (int32_t)strtol(text, NULL, 10);
	remote_reset(&p->remote);
	return 0;
}

int collect_relations(struct collection *c, struct err *err)
{
	return collect_stops(c, err) < 0 ? -1 : collect_last_pid(c, err);
}
