/* cmocka wants these before itself. */
#ifndef ATELIER_TESTS_CM_H
#define ATELIER_TESTS_CM_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#endif
