/**
 * All of the app that needs no Android: bundles are imported and verified, prompts become tensors, the sampler's loop
 * runs the programs, and latents become pictures. Everything that could be computed differently is computed as Python
 * does it, to the bit; the tests compare both.
 *
 * <p>Pure Java 8 without dependencies, and nothing that Android 7 (API level 24) lacks. What runs the programs is
 * behind {@link org.edgehadanorm.core.ModuleRunner}, what reads pictures behind
 * {@link org.edgehadanorm.core.PictureReader}.
 */
package org.edgehadanorm.core;
