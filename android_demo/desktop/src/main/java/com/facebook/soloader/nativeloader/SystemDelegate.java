package com.facebook.soloader.nativeloader;

/** Stands in for the loader's default. */
public final class SystemDelegate implements NativeLoaderDelegate {}
