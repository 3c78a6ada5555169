/* The bytes of stored directory trees (FORMAT.md, "Directory trees"). Pure. */
#include <stdlib.h>
#include <string.h>

#include "store/bytes.h"
#include "store/tree.h"

/* Offsets in a record. */
enum {
	AT_KIND = 0,
	AT_FLAGS = 1,
	AT_MODE = 4,
	AT_UID = 8,
	AT_GID = 12,
	AT_DEVICE = 16,
	AT_INODE = 24,
	AT_SIZE = 32,
	AT_MTIME = 40,
	AT_CTIME = 48,
	AT_RDEV = 56,
	AT_FIRST = 64,
	AT_ROOM = 72,
	AT_XATTR_FIRST = 80,
	AT_XATTR_ROOM = 88,
	AT_XATTR_LEN = 96,
	AT_END = 100, /* zeroes from here */
};

#define KNOWN_FLAGS (TREE_UNSTEADY | TREE_BOUNDARY)
#define PAGES_MOST  (1ull << 62)

void tree_record_encode(const struct tree_object *o, uint8_t record[TREE_RECORD])
{
	memset(record, 0, TREE_RECORD);
	record[AT_KIND] = (uint8_t)o->kind;
	record[AT_FLAGS] = (uint8_t)o->flags;
	put_le32(record + AT_MODE, o->mode);
	put_le32(record + AT_UID, o->uid);
	put_le32(record + AT_GID, o->gid);
	put_le64(record + AT_DEVICE, o->device);
	put_le64(record + AT_INODE, o->inode);
	put_le64(record + AT_SIZE, o->size);
	put_le64(record + AT_MTIME, (uint64_t)o->mtime);
	put_le64(record + AT_CTIME, (uint64_t)o->ctime);
	put_le64(record + AT_RDEV, o->rdev);
	put_le64(record + AT_FIRST, o->content.first);
	put_le64(record + AT_ROOM, o->content.room);
	put_le64(record + AT_XATTR_FIRST, o->xattr_content.first);
	put_le64(record + AT_XATTR_ROOM, o->xattr_content.room);
	put_le32(record + AT_XATTR_LEN, o->xattrs_len);
}

static bool stretch_is_good(const struct tree_stretch *s, uint64_t bytes)
{
	return s->first <= PAGES_MOST && s->room <= PAGES_MOST && tree_pages(bytes) <= s->room;
}

int tree_record_decode(const uint8_t record[TREE_RECORD], struct tree_object *ret, struct err *err)
{
	struct tree_object o = {
		.flags = record[AT_FLAGS],
		.mode = get_le32(record + AT_MODE),
		.uid = get_le32(record + AT_UID),
		.gid = get_le32(record + AT_GID),
		.device = get_le64(record + AT_DEVICE),
		.inode = get_le64(record + AT_INODE),
		.size = get_le64(record + AT_SIZE),
		.mtime = (int64_t)get_le64(record + AT_MTIME),
		.ctime = (int64_t)get_le64(record + AT_CTIME),
		.rdev = get_le64(record + AT_RDEV),
		.content = {get_le64(record + AT_FIRST), get_le64(record + AT_ROOM)},
		.xattr_content = {get_le64(record + AT_XATTR_FIRST),
				  get_le64(record + AT_XATTR_ROOM)},
		.xattrs_len = get_le32(record + AT_XATTR_LEN),
		.parent = TREE_NOWHERE,
	};

	if (record[AT_KIND] >= TREE_KINDS || o.flags & ~KNOWN_FLAGS || o.mode > 07777)
		return err_set(err, ERR_CORRUPT, "kind, flags or mode of an object");
	o.kind = (enum tree_kind)record[AT_KIND];
	if (o.size > INT64_MAX || o.xattrs_len > TREE_XATTRS_MOST ||
	    !stretch_is_good(&o.content, o.size) ||
	    !stretch_is_good(&o.xattr_content, o.xattrs_len))
		return err_set(err, ERR_CORRUPT, "size or place of an object");
	if (o.kind == TREE_SYMLINK && (o.size == 0 || o.size > TREE_TARGET_MOST))
		return err_set(err, ERR_CORRUPT, "length of a symbolic link");
	if (o.kind == TREE_DIRECTORY && o.size > UINT32_MAX)
		return err_set(err, ERR_CORRUPT, "size of a directory");
	*ret = o;
	return 0;
}

/* ---- names --------------------------------------------------------------------------------- */

int tree_listing_encode(const struct tree *tree, const struct tree_object *dir, uint8_t **ret,
			size_t *ret_len, struct err *err)
{
	size_t len = 0;
	uint8_t *bytes, *p;

	for (uint32_t i = 0; i < dir->n_entries; i++)
		len += 5 + strlen(dir->entries[i].name);
	if (len > UINT32_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a directory with %u names", dir->n_entries);
	p = bytes = malloc(len ? len : 1);
	if (!bytes)
		return err_sys(err, "directory");
	for (uint32_t i = 0; i < dir->n_entries; i++) {
		size_t n = strlen(dir->entries[i].name);

		put_le32(p, tree->objects[dir->entries[i].object].slot);
		p[4] = (uint8_t)n;
		memcpy(p + 5, dir->entries[i].name, n);
		p += 5 + n;
	}
	*ret = bytes;
	*ret_len = len;
	return 0;
}

static bool name_is_good(const uint8_t *name, size_t len)
{
	if (len == 0 || memchr(name, '/', len) || memchr(name, '\0', len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

static int decode_entry(const uint8_t **at, const uint8_t *end, uint32_t n, struct tree_object *dir,
			struct err *err)
{
	struct tree_entry e;
	size_t len;

	if (end - *at < 6 || (len = (*at)[4]) > (size_t)(end - *at - 5) ||
	    !name_is_good(*at + 5, len))
		return err_set(err, ERR_CORRUPT, "a name in a directory");
	e.object = get_le32(*at);
	if (e.object >= n || e.object == 0)
		return err_set(err, ERR_CORRUPT, "an entry of a directory leads nowhere");
	e.name = strndup((const char *)*at + 5, len);
	if (!e.name)
		return err_sys(err, "directory");
	if (dir->n_entries && strcmp(dir->entries[dir->n_entries - 1].name, e.name) >= 0) {
		free(e.name);
		return err_set(err, ERR_CORRUPT, "order of the names in a directory");
	}
	dir->entries[dir->n_entries++] = e;
	*at += 5 + len;
	return 0;
}

int tree_listing_decode(const uint8_t *bytes, size_t len, uint32_t n, struct tree_object *dir,
			struct err *err)
{
	const uint8_t *at = bytes, *end = bytes + len;

	/* An entry takes 6 bytes at least. */
	dir->entries = calloc(len / 6 + 1, sizeof(*dir->entries));
	dir->n_entries = 0;
	if (!dir->entries)
		return err_sys(err, "directory");
	while (at < end)
		if (decode_entry(&at, end, n, dir, err) < 0) {
			tree_free_entries(dir);
			return -1;
		}
	return 0;
}

/* ---- extended attributes ------------------------------------------------------------------- */

int tree_xattr_next(const uint8_t *set, uint32_t set_len, uint32_t *at, struct tree_xattr *ret)
{
	const uint8_t *p = set + *at;
	size_t left = set_len - *at, name;

	if (left == 0)
		return 0;
	name = strnlen((const char *)p, left);
	if (name == 0 || name > TREE_NAME_MOST || name + 5 > left)
		return -1;
	ret->name = (const char *)p;
	ret->len = get_le32(p + name + 1);
	ret->value = p + name + 5;
	if (ret->len > left - name - 5)
		return -1;
	*at += (uint32_t)(name + 5) + ret->len;
	return 1;
}

int tree_xattr_append(uint8_t **set, uint32_t *set_len, const char *name, const void *value,
		      uint32_t len)
{
	size_t n = strlen(name) + 1, more = n + 4 + len;
	uint8_t *grown;

	if (more > TREE_XATTRS_MOST - *set_len)
		return -1;
	grown = realloc(*set, *set_len + more);
	if (!grown)
		return -1;
	*set = grown;
	memcpy(grown + *set_len, name, n);
	put_le32(grown + *set_len + n, len);
	if (len)
		memcpy(grown + *set_len + n + 4, value, len);
	*set_len += (uint32_t)more;
	return 0;
}
