/*
 * Contents that are read before the pause, while the job runs.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "checkpointer/contents.h"
#include "checkpointer/freeze.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

/* ---- files --------------------------------------------------------------------------------- */

/* Opening it would break the lease, for nothing. */
static bool is_leased(const Snap__Snapshot *model, size_t file)
{
	for (size_t i = 0; i < model->n_open_files; i++)
		if (model->open_files[i]->lease && model->open_files[i]->file == (int32_t)file)
			return true;
	return false;
}

static void read_files(struct known_contents *known, struct store_session *session)
{
	const Snap__Snapshot *last = known->last;

	for (size_t i = 0; last && i < last->n_files; i++) {
		const Snap__File *f = last->files[i];
		const struct known_content *k;
		struct known_content fresh;
		struct stat st;
		struct err err;

		if (f->policy != SNAP__FILE__POLICY__RESTORE || f->deleted || !f->content ||
		    stat(f->path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != f->inode ||
		    st.st_dev != f->device || is_leased(last, i))
			continue;
		k = known_find(known, st.st_dev, st.st_ino);
		if (k && known_still_holds(k, &st))
			continue;
		if (contents_capture_path(known, session, f->path, f->path, 0, true, &fresh, &err) < 0)
			log_debug("reading ahead: %s", err.msg);
	}
}

/* ---- memory that processes share ----------------------------------------------------------- */

struct segment {
	struct file_source source;
	uint64_t inode, size, start;
	bool nameless; /* no descriptor can lead to it */
};

struct segments {
	struct segment *list;
	size_t n;
};

static void free_segments(struct segments *all)
{
	for (size_t i = 0; i < all->n; i++)
		free(all->list[i].source.pieces);
	free(all->list);
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_sysv(const struct proc_map *map)
{
	return map->deleted && starts_with(map->name, "/SYSV");
}

static bool is_memory(const struct proc_map *map)
{
	return map->shared &&
	       (starts_with(map->name, "/memfd:") || starts_with(map->name, "/dev/zero") ||
		starts_with(map->name, "[anon_shmem") || starts_with(map->name, SHM_DIR "/") ||
		is_sysv(map));
}

static struct segment *find_segment(struct segments *all, const struct proc_map *map)
{
	uint32_t major = is_sysv(map) ? SYSV_MAJOR : map->dev_major, minor = is_sysv(map) ? 0 : map->dev_minor;
	struct segment *more;

	for (size_t i = 0; i < all->n; i++) {
		const struct segment *s = &all->list[i];

		if (s->inode == map->inode && s->source.kernel_dev_major == major &&
		    s->source.kernel_dev_minor == minor)
			return &all->list[i];
	}
	more = reallocarray(all->list, all->n + 1, sizeof(*more));
	if (!more)
		return NULL;
	all->list = more;
	more[all->n] = (struct segment){
		.source = {.kernel_dev_major = major, .kernel_dev_minor = minor},
		.inode = map->inode,
		.start = map->start,
		.nameless = starts_with(map->name, "/dev/zero") ||
			    starts_with(map->name, "[anon_shmem") || is_sysv(map),
	};
	return &more[all->n++];
}

static int add_mapping(struct segments *all, pid_t pid, const struct proc_map *map, struct err *err)
{
	const struct file_piece piece = {.pid = pid,
					 .start = map->start,
					 .offset = map->offset,
					 .len = map->end - map->start};
	struct segment *s = find_segment(all, map);

	if (!s)
		return err_sys(err, "list of shared memory");
	if (s->size < piece.offset + piece.len)
		s->size = piece.offset + piece.len;
	return file_source_add_piece(&s->source, &piece, err);
}

static int find_segments(struct segments *all, const struct tree_root *root, struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	size_t n_pids, n;

	if (list_tree(root, &pids, &n_pids, err) < 0)
		return -1;
	for (size_t i = 0; i < n_pids; i++) {
		struct proc_map *maps;
		int result = 0;

		if (proc_read_maps(pids[i], false, &maps, &n, err) < 0)
			continue; /* it has just ended */
		for (size_t k = 0; k < n && result == 0; k++)
			if (is_memory(&maps[k]))
				result = add_mapping(all, pids[i], &maps[k], err);
		proc_maps_free(maps, n);
		if (result < 0)
			return -1;
	}
	return 0;
}

/* A descriptor of the process that leads to it, as a path to open. */
static bool find_descriptor(const struct segment *s, pid_t pid, char *path, size_t len)
{
	struct dirent *entry;
	struct stat st;
	bool found = false;
	DIR *dir;

	snprintf(path, len, "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		snprintf(path, len, "/proc/%d/fd/%s", pid, entry->d_name);
		found = entry->d_name[0] != '.' && stat(path, &st) == 0 && st.st_ino == s->inode &&
			st.st_dev == makedev(s->source.kernel_dev_major, s->source.kernel_dev_minor);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Through a descriptor holes are seen; through mappings only what a process has touched is looked at, lest
 * reading makes pages. */
static int read_segment(struct known_contents *known, struct store_session *session,
			const struct segment *s, struct err *err)
{
	/* Memory without a descriptor is known without a device. */
	bool sysv = s->source.kernel_dev_major == SYSV_MAJOR;
	const struct known_content *k = known_find(known, sysv ? makedev(SYSV_MAJOR, 0) : 0, s->inode);
	uint64_t base = k ? k->root : known_root_at(known, s->start);
	struct known_content content = {
		.device = makedev(s->source.kernel_dev_major, s->source.kernel_dev_minor),
		.inode = s->inode,
		.size = s->size,
	};
	struct piece_list pieces;
	char path[300];
	int result;

	for (size_t i = 0; i < s->source.n_pieces && !s->nameless; i++)
		if (find_descriptor(s, s->source.pieces[i].pid, path, sizeof(path)))
			return contents_capture_path(known, session, path, path, base, true, &content,
						     err);
	if (pieces_present(&s->source, &pieces, err) < 0)
		return -1;
	result = contents_capture_memory(known, session, &pieces, base, true, &content, err);
	piece_list_free(&pieces);
	return result;
}

static void read_memory(struct known_contents *known, struct store_session *session,
			const struct tree_root *root)
{
	struct segments all = {0};
	struct err err;

	if (find_segments(&all, root, &err) < 0)
		log_debug("reading ahead: %s", err.msg);
	for (size_t i = 0; i < all.n; i++)
		if (read_segment(known, session, &all.list[i], &err) < 0)
			log_debug("reading ahead: %s", err.msg);
	free_segments(&all);
}

void contents_read_ahead(struct known_contents *known, struct store_session *session,
			 const struct tree_root *root)
{
	read_files(known, session);
	read_memory(known, session, root);
}
