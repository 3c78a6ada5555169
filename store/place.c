#include "store/place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "store/base/cleanup.h"

struct shared_fs {
	unsigned long magic; /* linux/magic.h, or the file system's own source */
	const char *name;
};

static const struct shared_fs shared_fs[] = {
	{0x6969, "NFS"},           {0xff534d42, "CIFS"},      {0xfe534d42, "SMB"},
	{0x517b, "SMB"},           {0x0bd00bd0, "Lustre"},    {0x01021997, "9p"},
	{0x00c36400, "Ceph"},      {0x47504653, "GPFS"},      {0x19830326, "BeeGFS"},
	{0x20030528, "OrangeFS"},  {0x5346414f, "AFS"},       {0x6b414653, "AFS"},
	{0x73757245, "Coda"},      {0x564c, "NCP"},           {0x7461636f, "OCFS2"},
	{0x01161970, "GFS2"},      {0xaad7aaea, "PanFS"},
};

int place_check_owner(int dir_fd, const char *dir, bool write, struct err *err)
{
	struct stat st;

	if (fstat(dir_fd, &st) < 0)
		return err_sys(err, "%s", dir);
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return err_set(err, ERR_DENIED,
			       "%s: others may write this store (mode %o); chmod 700 it first", dir,
			       (unsigned)st.st_mode & 07777);
	if (st.st_uid == geteuid() || st.st_uid == 0 || (geteuid() == 0 && !write))
		return 0;
	return err_set(err, ERR_DENIED, "%s: this store belongs to another user (uid %u)", dir,
		       (unsigned)st.st_uid);
}

int place_check_fs(int dir_fd, const char *dir, struct err *err)
{
	struct statfs fs;
	size_t i;

	if (fstatfs(dir_fd, &fs) < 0)
		return err_sys(err, "%s", dir);
	for (i = 0; i < sizeof(shared_fs) / sizeof(*shared_fs); i++)
		if ((unsigned long)(unsigned)fs.f_type == shared_fs[i].magic)
			return err_set(err, ERR_UNSUPPORTED,
				       "%s: a store cannot be on a shared file system (%s)", dir,
				       shared_fs[i].name);
	return 0;
}

static bool is_ours(const char *name)
{
	static const char *const ours[] = {".",    "..",   "store.lock", "sessions.lock", "locks",
					   "run",  "logs", "data.mdb",   "data.mdb.new",  "lock.mdb",
					   "data.mdb.damaged"};
	size_t i;

	for (i = 0; i < sizeof(ours) / sizeof(*ours); i++)
		if (strcmp(name, ours[i]) == 0)
			return true;
	return false;
}

int place_check_empty(int dir_fd, const char *dir, struct err *err)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!d)
		return err_sys(err, "%s", dir);
	while ((entry = readdir(d)))
		if (!is_ours(entry->d_name))
			return err_set(err, ERR_INVALID,
				       "%s: not a store, and not empty (%s is in it)", dir,
				       entry->d_name);
	return 0;
}

int place_make_folders(int dir_fd, const char *dir, struct err *err)
{
	static const char *const folders[] = {"locks", "run", "logs"};
	size_t i;

	for (i = 0; i < sizeof(folders) / sizeof(*folders); i++)
		if (mkdirat(dir_fd, folders[i], 0700) < 0 && errno != EEXIST)
			return err_sys(err, "cannot make %s/%s", dir, folders[i]);
	return 0;
}
