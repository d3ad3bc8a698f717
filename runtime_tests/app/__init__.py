"""Checks of the Android app without Android: an APK, its code on a desktop JVM, vectors, screens."""
