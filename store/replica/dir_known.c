#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/base/search.h"
#include "store/replica/dir.h"
#include "store/replica/dirfile.h"
#include "store/txn.h"

void known_free(struct dir_known *known)
{
	if (!known)
		return;
	free(known->files);
	free(known->ranges);
	free(known);
}

size_t known_seek(const struct dir_known *known, uint64_t id)
{
	return COUNT_BEFORE(known->n_ranges, i, known->ranges[i].end <= id);
}

/* ---- adding -------------------------------------------------------------------------------- */

static int compare_ranges(const void *a, const void *b)
{
	const struct known_range *x = a, *y = b;

	return (x->first > y->first) - (x->first < y->first);
}

/* Of ids that are in two files one place is as good as the other. */
static void sort_ranges(struct dir_known *known)
{
	struct known_range *r = known->ranges;
	uint64_t end = 0;
	size_t n = 0;

	if (!known->n_ranges)
		return;
	qsort(r, known->n_ranges, sizeof(*r), compare_ranges);
	for (size_t i = 0; i < known->n_ranges; i++) {
		struct known_range range = r[i];

		if (range.first < end)
			range.first = end;
		if (range.first >= range.end)
			continue;
		end = range.end;
		r[n++] = range;
	}
	known->n_ranges = n;
}

static int append_range(struct dir_known *known, size_t *room, struct known_range range,
			struct err *err)
{
	if (known->n_ranges == *room) {
		size_t more_room = *room ? 2 * *room : 64;
		struct known_range *more = reallocarray(known->ranges, more_room, sizeof(*more));

		if (!more)
			return err_sys(err, "what the replica has");
		known->ranges = more;
		*room = more_room;
	}
	known->ranges[known->n_ranges++] = range;
	return 0;
}

static int add_ids(struct dir_known *known, const struct packfile *file, uint32_t index,
		   struct err *err)
{
	size_t room = known->n_ranges;

	for (uint32_t i = 0; i < file->count; i++) {
		uint64_t id = packfile_entry(file, i).id;
		struct known_range *last = i ? &known->ranges[known->n_ranges - 1] : NULL;

		if (last && last->end == id)
			last->end++;
		else if (append_range(known, &room, (struct known_range){id, id + 1, index}, err) <
			 0)
			return -1;
	}
	return 0;
}

static int add_file(struct dir_known *known, const struct packfile *file, struct err *err)
{
	struct known_file *more = reallocarray(known->files, known->n_files + 1, sizeof(*more));

	if (!more)
		return err_sys(err, "what the replica has");
	known->files = more;
	more[known->n_files] = (struct known_file){.count = file->count};
	memcpy(more[known->n_files].name, file->name, sizeof(more->name));
	return add_ids(known, file, (uint32_t)known->n_files++, err);
}

int known_add(struct dir_known *known, const struct packfile *file, struct err *err)
{
	if (add_file(known, file, err) < 0)
		return -1;
	sort_ranges(known);
	return 0;
}

/* ---- from what is there -------------------------------------------------------------------- */

/* Page ids mean something only within one store's history: the files that its last snapshot here needs may be
 * trusted if that snapshot is in the store still, and any file that was begun for a snapshot that is. A store
 * that was put back to an earlier state, or copied, gives the same ids to other pages. */
struct loader {
	struct dir_replica *r;
	const struct dir_job *job;
	struct dir_known *known;
	struct store *store;
	const struct snapshot_info *infos; /* of the store */
	size_t n_infos;
	Rep__Manifest *last; /* of this origin, trusted; or NULL */
};

static bool has_snapshot(const struct loader *l, uint64_t time, uint64_t generation)
{
	for (size_t i = 0; i < l->n_infos; i++)
		if (l->infos[i].time == time && l->infos[i].generation == generation)
			return true;
	return false;
}

static bool is_needed_by_last(const struct loader *l, const char *name)
{
	for (size_t i = 0; l->last && i < l->last->n_packs; i++)
		if (l->last->packs[i].len == strlen(name) &&
		    memcmp(l->last->packs[i].data, name, strlen(name)) == 0)
			return true;
	return false;
}

static int load_file(void *ctx, const char *name, struct err *err)
{
	struct loader *l = ctx;
	struct packfile file;
	int rc = 0;

	/* A damaged one is none: what it held is sent again. */
	if (!packfile_name_is_sound(name) ||
	    packfile_open(&file, l->job->packs, name, &l->r->secret, err) < 0)
		return 0;
	if (memcmp(file.tag.origin, l->known->origin, sizeof(file.tag.origin)) == 0 &&
	    (is_needed_by_last(l, name) || has_snapshot(l, file.tag.time, file.tag.generation)))
		rc = add_file(l->known, &file, err);
	packfile_close(&file);
	return rc;
}

static int find_last(struct loader *l, const Rep__Head *head, struct err *err)
{
	const Rep__Entry *last = NULL;

	for (size_t i = 0; i < head->n_snapshots; i++)
		if (memcmp(head->snapshots[i]->origin.data, l->known->origin, 16) == 0)
			last = head->snapshots[i];
	if (!last || !has_snapshot(l, last->time, last->generation))
		return 0;
	/* A damaged manifest just means that more is sent. */
	if (manifest_read(l->r, l->job, l->known->job, last, &l->last, err) < 0)
		return err->kind == ERR_CORRUPT || err->kind == ERR_NOT_FOUND ? 0 : -1;
	return 0;
}

static int load(struct dir_replica *r, const struct dir_job *job, const Rep__Head *head,
		struct dir_known *known, struct store *store, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	struct loader l = {.r = r, .job = job, .known = known, .store = store};
	int rc;

	if (store_snapshot_list(store, known->job, &infos, &l.n_infos, err) < 0)
		return -1;
	l.infos = infos;
	rc = find_last(&l, head, err);
	if (rc == 0)
		rc = dirfile_each(job->packs, load_file, &l, err);
	if (l.last)
		rep__manifest__free_unpacked(l.last, NULL);
	sort_ranges(known);
	return rc;
}

/* ---- keeping it up to date ----------------------------------------------------------------- */

static int note_present(void *ctx, const char *name, struct err *err)
{
	struct dir_known *known = ctx;

	for (size_t i = 0; i < known->n_files; i++)
		if (strcmp(known->files[i].name, name) == 0)
			known->files[i].gone = false;
	return 0;
}

static int look_over(const struct dir_job *job, struct dir_known *known, struct err *err)
{
	for (size_t i = 0; i < known->n_files; i++) {
		known->files[i].gone = true;
		known->files[i].live = 0;
	}
	return dirfile_each(job->packs, note_present, known, err);
}

int known_refresh(struct dir_replica *r, const struct dir_job *job, const char *name,
		  const Rep__Head *head, struct store *store, struct err *err)
{
	struct dir_known *known = r->known;

	if (known && strcmp(known->job, name) == 0 && memcmp(known->origin, store->uuid, 16) == 0)
		return look_over(job, known, err);
	known_free(known);
	r->known = NULL;
	known = calloc(1, sizeof(*known));
	if (!known)
		return err_sys(err, "what the replica has");
	snprintf(known->job, sizeof(known->job), "%s", name);
	memcpy(known->origin, store->uuid, sizeof(known->origin));
	if (load(r, job, head, known, store, err) < 0) {
		known_free(known);
		return -1;
	}
	r->known = known;
	return 0;
}
