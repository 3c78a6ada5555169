#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "checkpointer/collect.h"

/*
 * System V IPC objects: they belong to the IPC namespace, not to a process, and stay when nobody
 * uses them. /proc/sysvipc shows the namespace of who opens it (ipc/util.c, sysvipc_proc_open), so
 * the job is asked.
 */

#define LISTING_ROOM 4096u
#define KINDS	     3u

static const struct {
	const char *path, *what;
} kinds[KINDS] = {
	{"/proc/sysvipc/shm", "System V shared memory"},
	{"/proc/sysvipc/sem", "a System V semaphore set"},
	{"/proc/sysvipc/msg", "a System V message queue"},
};

/* The first bytes of each listing as the process sees it, terminated, in its mirror; empty where there is
 * none: a kernel without System V IPC, or a job without /proc. Two rounds, whatever their number. */
static int read_listings(struct collected_process *p, const char *ret[KINDS], struct err *err)
{
	struct tracee *thread = &p->frozen->threads[0]->tracee;
	struct remote_call *opened[KINDS];
	int64_t fds[KINDS];
	uint64_t addr;

	remote_reset(&p->remote);
	for (size_t i = 0; i < KINDS; i++)
		opened[i] = remote_call(&p->remote, SYS_openat, (uint64_t)AT_FDCWD,
					remote_push_string(&p->remote, kinds[i].path),
					O_RDONLY | O_CLOEXEC);
	if (remote_run(&p->remote, thread, err) < 0)
		return -1;
	for (size_t i = 0; i < KINDS; i++)
		fds[i] = opened[i]->ret;
	remote_reset(&p->remote);
	for (size_t i = 0; i < KINDS; i++) {
		ret[i] = remote_data(&p->remote, LISTING_ROOM + 1, &addr);
		if (fds[i] < 0)
			continue;
		remote_call(&p->remote, SYS_read, (uint64_t)fds[i], addr, LISTING_ROOM);
		remote_call(&p->remote, SYS_close, (uint64_t)fds[i]);
	}
	return remote_run(&p->remote, thread, err);
}

static int refuse_first(const char *text, const char *what, struct err *err)
{
	const char *line = strchr(text, '\n'); /* behind the headings */
	int key, id;

	if (!line || sscanf(line, "%d %d", &key, &id) != 2)
		return 0;
	return err_set(err, ERR_UNSUPPORTED, "%s: id %d, key 0x%x, in the job's IPC namespace",
		       what, id, (unsigned)key);
}

int collect_sysv(struct collection *c, struct err *err)
{
	struct collected_process *p = NULL;
	const char *texts[KINDS];

	/* An attached job, or one without a capsule, shares the namespace with others. */
	if (c->config->root.attached || c->config->new_ids)
		return 0;
	for (size_t i = 0; i < c->n && !p; i++)
		p = c->processes[i].remote.mirror ? &c->processes[i] : NULL;
	if (!p)
		return 0;
	if (read_listings(p, texts, err) < 0)
		return -1;
	for (size_t i = 0; i < KINDS; i++)
		if (refusals_go_on(&c->refusals, refuse_first(texts[i], kinds[i].what, err), err) <
		    0)
			return -1;
	remote_reset(&p->remote);
	return 0;
}
