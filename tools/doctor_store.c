#include "tools/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"
#include "store/place.h"
#include "store/store.h"

/* The directory, or the nearest one above it that exists: where it would be made. */
static int open_nearest(const char *dir, char *path, size_t len)
{
	int fd;

	snprintf(path, len, "%s", dir);
	for (;;) {
		char *slash;

		fd = open(*path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 || errno != ENOENT || !*path)
			return fd;
		slash = strrchr(path, '/');
		if (!slash)
			return open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		*slash = '\0';
	}
}

static void look_at_place(struct doctor_report *report, const char *dir)
{
	char nearest[PATH_MAX], size[32];
	cleanup_fd int fd = open_nearest(dir, nearest, sizeof(nearest));
	struct statvfs fs;
	struct err err = {0};

	if (fd < 0 || fstatvfs(fd, &fs) < 0) {
		doctor_add(report, "store", DOCTOR_MISSING, "%.150s: %s", dir, strerror(errno));
		return;
	}
	if (place_check_fs(fd, dir, &err) < 0) {
		doctor_add(report, "store", DOCTOR_MISSING, "%.250s", err.msg);
		return;
	}
	if (faccessat(fd, ".", W_OK, AT_EACCESS) < 0) {
		doctor_add(report, "store", DOCTOR_MISSING, "%.150s: %s", *nearest ? nearest : "/",
			   strerror(errno));
		return;
	}
	doctor_add(report, "store", DOCTOR_OK, "%.150s%s, %s free", dir,
		   strcmp(dir, nearest) == 0 ? "" : " (to be made)",
		   format_size((uint64_t)fs.f_bavail * fs.f_frsize, size, sizeof(size)));
}

/* A store that is there: can it be opened? */
static void look_at_store(struct doctor_report *report, const char *dir)
{
	struct store *store = NULL;
	struct store_usage usage;
	struct err err = {0};
	char size[32];

	if (access(dir, F_OK) < 0)
		return;
	if (store_open(&store, dir, STORE_READ | STORE_ANY_FS, &err) < 0) {
		if (err.kind != ERR_NOT_FOUND)
			doctor_add(report, "store's content", DOCTOR_MISSING, "%.250s", err.msg);
		return;
	}
	if (store_usage(store, &usage, &err) < 0)
		doctor_add(report, "store's content", DOCTOR_MISSING, "%.250s", err.msg);
	else
		doctor_add(report, "store's content", DOCTOR_OK, "%llu jobs, %llu snapshots, %s",
			   (unsigned long long)usage.jobs, (unsigned long long)usage.snapshots,
			   format_size(usage.file_bytes, size, sizeof(size)));
	store_close(store);
}

static void look_at_lmdb(struct doctor_report *report)
{
	int major, minor, patch;
	bool racy;

	mdb_version(&major, &minor, &patch);
	racy = major == 0 && minor == 9 && patch >= 26 && patch <= 31;
	doctor_add(report, "LMDB", racy ? DOCTOR_FALLBACK : DOCTOR_OK, "%d.%d.%d%s", major, minor,
		   patch,
		   racy ? ": closing a store while another process opens it can fail (ITS#9278, "
			  "fixed in "
			  "0.9.32)"
			: "");
}

void doctor_store(struct doctor_report *report, const char *store_dir)
{
	look_at_place(report, store_dir);
	look_at_store(report, store_dir);
	look_at_lmdb(report);
}
