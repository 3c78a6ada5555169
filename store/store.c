#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/env.h"
#include "store/lock.h"
#include "store/place.h"
#include "store/session.h"
#include "store/txn.h"

static int open_dir(struct store *store, const char *dir, struct err *err)
{
	char path[PATH_MAX];

	if ((store->flags & STORE_CREATE) && make_dirs(dir, 0700, err) < 0)
		return -1;
	if (!realpath(dir, path)) {
		if (errno == ENOENT)
			return err_set(err, ERR_NOT_FOUND, "%s: there is no store", dir);
		return err_sys(err, "%s", dir);
	}
	store->dir = strdup(path);
	store->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!store->dir || store->dir_fd < 0)
		return err_sys(err, "%s", dir);
	if (place_check_owner(store->dir_fd, dir, store->flags & STORE_WRITE, err) < 0)
		return -1;
	if (store->flags & STORE_ANY_FS)
		return 0;
	return place_check_fs(store->dir_fd, dir, err);
}

/* Everyone who has the store open holds LOCK_USERS; waits while somebody compacts it. */
static int lock_users(struct store *store, struct err *err)
{
	store->lock_fd = openat(store->dir_fd, "store.lock",
				O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (store->lock_fd < 0 && !(store->flags & STORE_WRITE))
		store->lock_fd = openat(store->dir_fd, "store.lock",
					O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (store->lock_fd < 0)
		return err_sys(err, "%s: cannot open store.lock", store->dir);
	if (lock_byte_wait(store->lock_fd, LOCK_USERS, F_RDLCK, -1) < 0)
		return err_sys(err, "%s: cannot lock", store->dir);
	return 0;
}

static bool has_data(struct store *store)
{
	return faccessat(store->dir_fd, "data.mdb", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int make_store(struct store *store, struct err *err)
{
	int rc = 0;

	if (lock_byte_wait(store->lock_fd, LOCK_MAKE, F_WRLCK, -1) < 0)
		return err_sys(err, "%s: cannot lock", store->dir);
	if (!has_data(store)) /* else somebody made it while we waited */
		rc = env_make(store, err);
	lock_byte(store->lock_fd, LOCK_MAKE, F_UNLCK);
	return rc;
}

static int prepare_dir(struct store *store, struct err *err)
{
	bool there = has_data(store);

	if (!there && !(store->flags & STORE_CREATE))
		return err_set(err, ERR_NOT_FOUND, "%s: there is no store", store->dir);
	if (!there && place_check_empty(store->dir_fd, store->dir, err) < 0)
		return -1;
	if (lock_users(store, err) < 0)
		return -1;
	if ((store->flags & STORE_WRITE) &&
	    place_make_folders(store->dir_fd, store->dir, err) < 0)
		return -1;
	return there ? 0 : make_store(store, err);
}

int store_open(struct store **ret, const char *dir, int flags, struct err *err)
{
	struct store *store = calloc(1, sizeof(*store));

	if (!store)
		return err_sys(err, "%s", dir);
	store->flags = flags & STORE_CREATE ? flags | STORE_WRITE : flags;
	store->dir_fd = store->lock_fd = -1;
	pthread_rwlock_init(&store->map_lock, NULL);
	pthread_mutex_init(&store->gc_mutex, NULL);
	if (open_dir(store, dir, err) < 0 || prepare_dir(store, err) < 0 ||
	    env_open(store, err) < 0)
		goto fail;
	if ((store->flags & STORE_WRITE) && sessions_reclaim(store, err) < 0 &&
	    err->kind != ERR_FULL)
		goto fail;
	*ret = store;
	return 0;
fail:
	store_close(store);
	return -1;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	env_close(store);
	if (store->lock_fd >= 0)
		close(store->lock_fd);
	if (store->dir_fd >= 0)
		close(store->dir_fd);
	pthread_rwlock_destroy(&store->map_lock);
	pthread_mutex_destroy(&store->gc_mutex);
	explicit_bzero(&store->secret, sizeof(store->secret));
	free(store->dir);
	free(store);
}

const char *store_dir(const struct store *store)
{
	return store->dir;
}

static void job_path(const struct store *store, const char *folder, uint64_t job,
		     const char *suffix, char *buf, size_t len)
{
	snprintf(buf, len, "%s/%s/%llu.%s", store->dir, folder, (unsigned long long)job, suffix);
}

void store_job_log_path(const struct store *store, const struct job_info *job, char *buf, size_t len)
{
	job_path(store, "logs", job->id, "log", buf, len);
}

void store_job_stdin_path(const struct store *store, const struct job_info *job, char *buf,
			  size_t len)
{
	job_path(store, "logs", job->id, "stdin", buf, len);
}

void store_job_socket_path(const struct store *store, const struct job_info *job, char *buf,
			   size_t len)
{
	job_path(store, "run", job->id, "sock", buf, len);
}
