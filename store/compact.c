/*
 * Giving space back to the file system: LMDB never shrinks its file, so a copy without the free pages
 * takes its place. Nobody else may have the store open meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "store/base/cleanup.h"
#include "store/env.h"
#include "store/gc.h"
#include "store/lock.h"

static uint64_t file_size(struct store *store)
{
	struct stat st;

	return fstatat(store->dir_fd, "data.mdb", &st, 0) == 0 ? (uint64_t)st.st_size : 0;
}

static int copy_env(struct store *store, struct err *err)
{
	cleanup_fd int fd = -1;
	int rc;

	unlinkat(store->dir_fd, "data.mdb.new", 0);
	fd = openat(store->dir_fd, "data.mdb.new",
		    O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, "%s/data.mdb.new", store->dir);
	pthread_rwlock_rdlock(&store->map_lock);
	rc = mdb_env_copyfd2(store->env, fd, MDB_CP_COMPACT);
	pthread_rwlock_unlock(&store->map_lock);
	if (rc)
		return err_lmdb(err, rc, "%s: cannot copy the store", store->dir);
	return fsync(fd) < 0 ? err_sys(err, "%s/data.mdb.new", store->dir) : 0;
}

/* Under the exclusive lock. Whatever happens, the store is open again afterwards if it can be. */
static int replace_env(struct store *store, struct err *err)
{
	if (copy_env(store, err) < 0) {
		unlinkat(store->dir_fd, "data.mdb.new", 0);
		return -1;
	}
	env_close(store);
	if (renameat(store->dir_fd, "data.mdb.new", store->dir_fd, "data.mdb") < 0 ||
	    fsync(store->dir_fd) < 0) {
		struct err ignored; /* the first failure is the one to report */

		err_sys(err, "%s: cannot replace data.mdb", store->dir);
		env_open(store, &ignored);
		return -1;
	}
	return env_open(store, err);
}

int gc_give_back(struct gc *gc, struct err *err)
{
	struct store *store = gc->store;
	uint64_t before = file_size(store), after;
	int rc;

	if (atomic_load(&store->users) != 0)
		return err_set(err, ERR_BUSY, "%s: snapshots are being written or read",
			       store->dir);
	rc = lock_byte(store->lock_fd, LOCK_USERS, F_WRLCK);
	if (rc < 0)
		return err_sys(err, "%s: cannot lock", store->dir);
	if (rc == 0)
		return err_set(err, ERR_BUSY, "%s: another pawl has the store open", store->dir);
	rc = replace_env(store, err);
	lock_byte(store->lock_fd, LOCK_USERS, F_RDLCK);
	after = file_size(store);
	if (rc == 0 && after < before)
		gc->stats.bytes_returned = before - after;
	return rc;
}
