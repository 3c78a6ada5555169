#include "checkpointer/trees.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "checkpointer/tree_impl.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

#define TRIES 5

struct saved_trees {
	struct saved_tree *list; /* ascending by path: outer ones first */
	const char **paths;	 /* of the list */
	size_t n;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory for saved directories");
}

/* ---- which directories --------------------------------------------------------------------- */

static void end_snapshot(struct saved_tree *t)
{
	tree_free_copies(t);
	tree_watch_end(&t->watch);
	tree_walk_end(&t->walk);
	tree_clear(&t->now);
	page_table_free(t->contents);
	t->contents = NULL;
}

static void free_tree(struct saved_tree *t)
{
	end_snapshot(t);
	tree_clear(&t->prev);
	free(t->path);
}

static int add_path(struct saved_trees *trees, const char *path, struct err *err)
{
	struct saved_tree *more;
	const char **paths;

	for (size_t i = 0; i < trees->n; i++)
		if (strcmp(trees->list[i].path, path) == 0)
			return 0;
	paths = reallocarray(trees->paths, trees->n + 1, sizeof(*paths));
	if (paths)
		trees->paths = paths;
	more = reallocarray(trees->list, trees->n + 1, sizeof(*more));
	if (more)
		trees->list = more;
	if (!paths || !more)
		return no_memory(err);
	more[trees->n] = (struct saved_tree){
		.path = strdup(path), .walk = {.root = -1}, .watch = {.fd = -1}};
	if (!more[trees->n].path)
		return no_memory(err);
	trees->n++;
	return 0;
}

/* Whether the directory `inner` is a part of `outer` that a walk of that reaches. */
static bool is_covered(const char *outer, const char *inner)
{
	size_t len = strlen(outer);
	cleanup_fd int root = -1, fd = -1;

	if (strncmp(outer, inner, len) != 0 || inner[len] != '/')
		return false;
	root = open(outer, O_PATH | O_DIRECTORY | O_CLOEXEC);
	fd = root < 0 ? -1 : open_beneath(root, inner + len + 1, O_PATH | O_NOFOLLOW);
	return root < 0 || fd >= 0 || errno != EXDEV;
}

static int compare_paths(const void *a, const void *b)
{
	return strcmp(((const struct saved_tree *)a)->path, ((const struct saved_tree *)b)->path);
}

static void drop_covered(struct saved_trees *trees)
{
	size_t n = 0;

	qsort(trees->list, trees->n, sizeof(*trees->list), compare_paths);
	for (size_t i = 0; i < trees->n; i++) {
		bool covered = false;

		for (size_t j = 0; j < n; j++)
			covered |= is_covered(trees->list[j].path, trees->list[i].path);
		if (covered)
			free_tree(&trees->list[i]);
		else
			trees->list[n++] = trees->list[i];
	}
	trees->n = n;
	for (size_t i = 0; i < n; i++)
		trees->paths[i] = trees->list[i].path;
}

static int list_directories(struct saved_trees *trees, const struct checkpoint_config *config,
			    const Snap__Snapshot *last, struct err *err)
{
	for (size_t i = 0; i < config->n_save_dirs; i++)
		if (add_path(trees, config->save_dirs[i], err) < 0)
			return -1;
	for (size_t i = 0; last && i < last->n_trees; i++)
		if (add_path(trees, last->trees[i]->path, err) < 0)
			return -1;
	if (trees->n)
		drop_covered(trees);
	return 0;
}

const char *const *saved_trees_paths(const struct saved_trees *trees, size_t *ret_n)
{
	*ret_n = trees ? trees->n : 0;
	return trees ? trees->paths : NULL;
}

/* ---- the last snapshot's ------------------------------------------------------------------- */

static const Snap__Tree *find_model(const Snap__Snapshot *last, const char *path)
{
	for (size_t i = 0; last && i < last->n_trees; i++)
		if (strcmp(last->trees[i]->path, path) == 0)
			return last->trees[i];
	return NULL;
}

static int have_prev(struct saved_tree *t, struct store *store, const Snap__Snapshot *last,
		     struct err *err)
{
	const Snap__Tree *model = find_model(last, t->path);

	if (model && t->has_prev && t->prev_walked == model->walked &&
	    t->objects_root == model->objects_root && t->contents_root == model->contents_root)
		return 0;
	tree_clear(&t->prev);
	t->has_prev = false;
	t->objects_root = model ? model->objects_root : 0;
	t->contents_root = model ? model->contents_root : 0;
	t->prev_walked = model ? model->walked : 0;
	if (model && tree_load(&t->prev, store, model, err) < 0)
		return -1;
	t->has_prev = true;
	return 0;
}

/* ---- while the job runs -------------------------------------------------------------------- */

/* tmpfs and hugetlbfs never set a file's time for a write through a mapping. */
static bool lacks_times(int root)
{
	struct statfs fs;

	return root >= 0 && fstatfs(root, &fs) == 0 &&
	       (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC ||
		fs.f_type == HUGETLBFS_MAGIC);
}

static int walk(struct saved_tree *t, struct store *store, bool still, struct err *err)
{
	struct stat st;

	t->walk = (struct tree_walk){.tree = &t->now, .root = -1, .still = still};
	if (!still) {
		t->walk.entered = tree_watch_add;
		t->walk.ctx = &t->watch;
	}
	if (stat(store_dir(store), &st) == 0)
		t->walk.spared = (struct tree_spared){st.st_dev, st.st_ino};
	t->now.next_page = t->prev.next_page;
	if (tree_walk_begin(&t->walk, t->path, err) < 0)
		return -1;
	t->no_times = lacks_times(t->walk.root);
	if (tree_walk_all(&t->walk, err) < 0)
		return err_wrap(err, "%s", t->path);
	return tree_link_up(&t->now, err);
}

static int begin_tree(struct saved_tree *t, struct store *store, struct store_session *session,
		      const Snap__Snapshot *last, struct err *err)
{
	if (have_prev(t, store, last, err) < 0)
		return -1;
	t->walked = clock_ns(CLOCK_REALTIME);
	if (page_table_edit(&t->contents, session, t->contents_root, err) < 0)
		return -1;
	tree_watch_begin(&t->watch);
	if (walk(t, store, false, err) < 0 || tree_match(t, err) < 0)
		return -1;
	return tree_read_ahead(t, err);
}

int saved_trees_begin(struct saved_trees **ret, const struct checkpoint_config *config,
		      struct store *store, struct store_session *session,
		      const Snap__Snapshot *last, struct err *err)
{
	if (!*ret && !(*ret = calloc(1, sizeof(**ret))))
		return no_memory(err);
	if (list_directories(*ret, config, last, err) < 0)
		return -1;
	for (size_t i = 0; i < (*ret)->n; i++)
		if (begin_tree(&(*ret)->list[i], store, session, last, err) < 0)
			return -1;
	return 0;
}

/* ---- in the pause -------------------------------------------------------------------------- */

static bool root_is_another(const struct saved_tree *t)
{
	struct stat st;
	bool there = lstat(t->path, &st) == 0;

	if (t->walk.root < 0 || !there)
		return there != (t->walk.root >= 0);
	return t->now.n == 0 || st.st_ino != t->now.objects[0].inode ||
	       st.st_dev != t->now.objects[0].device;
}

static int walk_anew(struct saved_tree *t, struct store *store, struct err *err)
{
	struct tree ahead = t->now;
	uint64_t next_page = ahead.next_page;
	int result;

	log_debug("%s: walked again in the pause", t->path);
	/* Copies belong to objects of the first walk. */
	for (size_t i = 0; i < t->n_copies; i++)
		ahead.objects[t->copies[i].object].mark |= TREE_READ_AGAIN | TREE_DETAILS_AGAIN;
	tree_free_copies(t);
	t->now = (struct tree){0};
	tree_walk_end(&t->walk);
	result = walk(t, store, true, err);
	t->now.next_page = next_page;
	if (result == 0)
		result = tree_match_ahead(t, &ahead, err);
	tree_clear(&ahead);
	return result;
}

/* Names that were changed, until no directory is left whose names are not known. */
static int read_names_again(struct saved_tree *t, struct err *err)
{
	char path[TREE_PATH_ROOM];
	bool progress = true;
	uint32_t left = TREE_NOWHERE;

	while (progress) {
		progress = false;
		left = TREE_NOWHERE;
		for (uint32_t i = 0; i < t->now.n; i++) {
			const struct tree_object *o = &t->now.objects[i];

			if (o->kind != TREE_DIRECTORY || !(o->mark & TREE_READ_AGAIN) ||
			    tree_path(&t->now, i, path, sizeof(path)) < 0)
				continue;
			if (tree_walk_again(&t->walk, i, err) == 0)
				progress = true;
			else if (err->kind == ERR_NOT_FOUND)
				left = i; /* renamed or deleted: its parent's turn comes */
			else
				return err_wrap(err, "%s", t->path);
		}
	}
	return left == TREE_NOWHERE ? 0 : err_wrap(err, "%s", t->path);
}

/* Names outside the tree, whose events do not reach us. */
static bool has_name_elsewhere(const struct tree_object *o)
{
	return o->kind != TREE_DIRECTORY && o->nlink > o->names;
}

static void look_again(struct saved_tree *t)
{
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];
		struct tree_object was = *o;
		bool elsewhere = has_name_elsewhere(o);

		if ((i && !o->name) || (!(o->mark & TREE_LOOK_AGAIN) && !elsewhere) ||
		    !tree_walk_look(&t->walk, i))
			continue;
		o->mark &= (uint8_t)~TREE_LOOK_AGAIN;
		if (o->kind == TREE_REGULAR && (o->size != was.size || o->mtime != was.mtime ||
						(elsewhere && o->ctime != was.ctime)))
			o->mark |= TREE_READ_AGAIN;
		if (o->ctime != was.ctime)
			o->mark |= TREE_DETAILS_AGAIN;
	}
}

/* Files that are mapped shared and writable change without events and times. */
static void mark_mapped(struct saved_tree *t, const struct collection *c)
{
	for (size_t i = 0; i < c->n_sources; i++) {
		const Snap__File *f = c->model->files[i];
		uint32_t id;

		if (!c->sources[i].mapped_shared)
			continue;
		id = tree_index_find(&t->walk.index, &t->now, f->device, f->inode);
		if (id != TREE_NOWHERE) {
			t->now.objects[id].mark |= TREE_READ_AGAIN | TREE_LOOK_AGAIN;
			t->now.objects[id].flags |= TREE_UNSTEADY;
		}
	}
}

/* A mount point is another tree's root, or refused. */
static int check_boundaries(const struct saved_trees *trees, const struct saved_tree *t,
			    struct err *err)
{
	char path[TREE_PATH_ROOM], whole[2 * TREE_PATH_ROOM];

	for (uint32_t i = 0; i < t->now.n; i++) {
		bool saved = false;

		if (!(t->now.objects[i].flags & TREE_BOUNDARY) ||
		    tree_path(&t->now, i, path, sizeof(path)) < 0)
			continue;
		snprintf(whole, sizeof(whole), "%s/%s", t->path, path);
		for (size_t j = 0; j < trees->n; j++)
			saved |= strcmp(trees->list[j].path, whole) == 0;
		if (!saved)
			return err_set(err, ERR_UNSUPPORTED,
				       "%s, below --save-dir %s, is a mount point (save it with a "
				       "--save-dir of its own)",
				       whole, t->path);
	}
	return 0;
}

static int look_and_read(struct saved_trees *trees, struct saved_tree *t,
			 const struct collection *c, struct store *store, struct err *err)
{
	tree_watch_drain(&t->watch, &t->now);
	if (t->watch.blind || root_is_another(t)) {
		if (walk_anew(t, store, err) < 0)
			return -1;
		mark_mapped(t, c);
	} else {
		mark_mapped(t, c);
		if (read_names_again(t, err) < 0)
			return -1;
		look_again(t);
	}
	if (check_boundaries(trees, t, err) < 0)
		return -1;
	return tree_read_frozen(t, err);
}

/* The job stands still, but others may write there too: what they change under our hands is looked
 * at again. */
static int freeze_tree_of(struct saved_trees *trees, struct saved_tree *t,
			  const struct collection *c, struct store *store, struct err *err)
{
	int tries = 0, result;

	t->walk.still = true;
	do
		result = look_and_read(trees, t, c, store, err);
	while (result < 0 && ++tries < TRIES &&
	       (err->kind == ERR_NOT_FOUND || err->kind == ERR_BUSY));
	return result;
}

int saved_trees_frozen(struct saved_trees *trees, const struct collection *c, struct store *store,
		       struct err *err)
{
	for (size_t i = 0; i < trees->n; i++) {
		uint64_t start = clock_ns(CLOCK_MONOTONIC);
		struct saved_tree *t = &trees->list[i];

		if (freeze_tree_of(trees, t, c, store, err) < 0)
			return err_wrap(err, "--save-dir");
		log_debug("%s: %u objects, %.1f ms in the pause, %" PRIu64 " bytes read in it",
			  t->path, t->now.n, (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e6,
			  t->copied);
	}
	return 0;
}

/* ---- when it runs again -------------------------------------------------------------------- */

static void count(const struct tree *tree, Snap__Tree *model)
{
	for (uint32_t i = 0; i < tree->n; i++) {
		const struct tree_object *o = &tree->objects[i];

		if (!o->names || o->kind == TREE_DIRECTORY)
			continue;
		model->files++;
		if (o->kind == TREE_REGULAR)
			model->bytes += o->size;
	}
}

static int finish_tree(struct saved_tree *t, struct store_session *session, Snap__Snapshot *model,
		       struct err *err)
{
	Snap__Tree *m = snap_append(&model->trees, &model->n_trees, Snap__Tree, SNAP__TREE__INIT);
	uint32_t slots;

	if (!m || snap_set_string(&m->path, t->path) < 0)
		return no_memory(err);
	if (tree_link_up(&t->now, err) < 0 || tree_assign(t, &slots, err) < 0 ||
	    tree_put_copies(t, err) < 0 ||
	    tree_store(&t->now, slots, session, t->contents, t->objects_root, &t->objects_root,
		       err) < 0 ||
	    page_table_finish(steal_ptr(&t->contents), &t->contents_root, err) < 0)
		return -1;
	m->objects = slots;
	m->objects_root = t->objects_root;
	m->contents_root = t->contents_root;
	m->next_page = t->now.next_page;
	m->walked = t->walked;
	count(&t->now, m);
	return 0;
}

int saved_trees_finish(struct saved_trees *trees, struct store_session *session,
		       Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < trees->n; i++)
		if (finish_tree(&trees->list[i], session, model, err) < 0)
			return err_wrap(err, "--save-dir %s", trees->list[i].path);
	return 0;
}

void saved_trees_done(struct saved_trees *trees, bool published)
{
	for (size_t i = 0; trees && i < trees->n; i++) {
		struct saved_tree *t = &trees->list[i];

		t->has_prev = published && tree_make_prev(t);
		t->prev_walked = t->walked;
		end_snapshot(t);
	}
}

void saved_trees_free(struct saved_trees *trees)
{
	if (!trees)
		return;
	for (size_t i = 0; i < trees->n; i++)
		free_tree(&trees->list[i]);
	free(trees->list);
	free(trees->paths);
	free(trees);
}
