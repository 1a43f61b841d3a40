"""The privacy audit: attacks on the code that keeps the promise, and a page that tells the result.

Each check takes the mechanism under test as a callable, so that the same check can be shown to
catch a mechanism that is broken on purpose.
"""
