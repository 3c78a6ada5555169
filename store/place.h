/*
 * place.h: the directory a store lives in: may it be trusted, is its file system fit, what is in it.
 */
#ifndef PAWL_STORE_PLACE_H
#define PAWL_STORE_PLACE_H

#include <stdbool.h>

#include "store/base/err.h"

/* ERR_DENIED where others may write it or it is somebody else's. Root's own stores serve everyone who
 * can read them; root may read other users' stores, but writing (and recovering from) one would let
 * its owner decide what root runs. */
int place_check_owner(int dir_fd, const char *dir, bool write, struct err *err);

/* ERR_UNSUPPORTED on file systems shared between machines, where LMDB's locks and map do not hold. */
int place_check_fs(int dir_fd, const char *dir, struct err *err);

/* ERR_INVALID where the directory holds anything that is not a store's. */
int place_check_empty(int dir_fd, const char *dir, struct err *err);

/* The folders beside the environment. */
int place_make_folders(int dir_fd, const char *dir, struct err *err);

#endif
