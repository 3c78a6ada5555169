/* System V semaphores, and what SEM_UNDO has noted of them for each process. */
#include "checkpointer/sysv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sem.h>

#include "store/base/cleanup.h"

#ifndef SEM_STAT_ANY
#define SEM_STAT_ANY 20 /* Linux 4.17 */
#endif

#define WHAT "a System V semaphore set"

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing " WHAT);
}

/* Whether a living process of the job was the last to change one of them. */
static bool is_used(const struct sysv_look *look, const struct semid_ds *ds, int id)
{
	for (int i = 0; i < (int)ds->sem_nsems; i++)
		if (sysv_member(look->c, semctl(id, i, GETPID)))
			return true;
	return false;
}

static int read_values(const struct sysv_look *look, Snap__SysvSemaphores *s,
		       const struct semid_ds *ds, int id, struct err *err)
{
	size_t n = ds->sem_nsems;
	cleanup_free unsigned short *values = calloc(n + 1, sizeof(*values));

	s->values = calloc(n + 1, sizeof(*s->values));
	s->pids = calloc(n + 1, sizeof(*s->pids));
	if (!values || !s->values || !s->pids)
		return no_memory(err);
	if (semctl(id, 0, GETALL, (union semun){.array = values}) < 0)
		return sysv_refuse(&ds->sem_perm, id, WHAT, strerror(errno), err);
	for (size_t i = 0; i < n; i++) {
		s->values[i] = values[i];
		s->pids[i] = sysv_member(look->c, semctl(id, (int)i, GETPID));
	}
	s->n_values = s->n_pids = n;
	s->operated = ds->sem_otime != 0;
	return 0;
}

static int add_set(struct sysv_look *look, const struct semid_ds *ds, int id, struct err *err)
{
	Snap__Snapshot *m = look->c->model;
	Snap__SysvSemaphores *s;

	if (look->shared && !is_used(look, ds, id))
		return 0;
	s = snap_append(&m->semaphores, &m->n_semaphores, Snap__SysvSemaphores,
			SNAP__SYSV_SEMAPHORES__INIT);
	if (!s)
		return no_memory(err);
	if (sysv_object(&ds->sem_perm, id, &s->object, err) < 0)
		return -1;
	return read_values(look, s, ds, id, err);
}

int sysv_collect_semaphores(struct sysv_look *look, struct err *err)
{
	struct seminfo info;
	struct semid_ds ds;
	int most = semctl(0, 0, SEM_INFO, (union semun){.info = &info});

	if (most < 0)
		return errno == ENOSYS ? 0 : err_sys(err, "listing System V semaphores");
	for (int i = 0; i <= most; i++) {
		int id = semctl(i, 0, SEM_STAT_ANY, (union semun){.buf = &ds});

		if (id >= 0 &&
		    refusals_go_on(&look->c->refusals, add_set(look, &ds, id, err), err) < 0)
			return -1;
	}
	return 0;
}
